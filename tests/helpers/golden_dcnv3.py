"""The 21 golden configurations of DCNv3, as arguments and expected results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.shared import REFERENCE
from torch import Tensor

FILE = REFERENCE / "golden" / "dcnv3_op.npz"
CONFIGURATIONS = [
    *("k1_pad0", "k2_even", "k3_base", "k3_big_offsets", "k3_dil2_pad2", "k3_dil2_s2_scale0.5", "k3_g1", "k3_gc1"),
    *("k3_integer_offset", "k3_pad0", "k3_pad2", "k3_rc", "k3_rc_dil2_s2", "k3_s2", "k3_scale2", "k3_zero_offset"),
    *("k3x5", "k4_dil1_scale1.5", "k5_pad2", "k5_rc_scale2", "k5x3_s2x1"),
]


def read(name: str) -> tuple[list[Tensor], dict[str, Any], dict[str, Tensor]]:
    """x, offset and mask; the geometry; `grad_out`, `out` and those of `g_input`, `g_offset`, `g_mask` that exist."""
    if not FILE.is_file():
        pytest.skip("needs the reference facts in ../shared/reference/golden/dcnv3_op.npz")
    with np.load(FILE) as golden:
        facts = {key.split("/")[1]: torch.from_numpy(golden[key]) for key in golden if key.split("/")[0] == name}
    numbers = facts.pop("cfg").tolist()
    pairs = ("kernel_size", "stride", "padding", "dilation")
    geometry: dict[str, Any] = {key: (int(numbers[2 * i]), int(numbers[2 * i + 1])) for i, key in enumerate(pairs)}
    geometry |= {"groups": int(numbers[8]), "offset_scale": numbers[10], "remove_center": bool(numbers[11])}
    return [facts.pop(key) for key in ("input", "offset", "mask")], geometry, facts
