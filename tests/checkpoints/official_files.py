"""Files as InternImage publishes them, made from the list of their keys and a rule for their values."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs ../shared/reference beside the checkout")


def official_shapes(variant: str) -> dict[str, tuple[list[int], str]]:
    """Key -> shape and dtype."""
    keys = json.loads((REFERENCE / "keys" / f"keys_{variant}.json").read_text())
    return {key: (shape, dtype) for key, shape, dtype in keys}


def official_state(variant: str) -> dict[str, Tensor]:
    rule = _rule()
    return {
        key: torch.from_numpy(np.asarray(rule.value(key, shape))).reshape(shape)
        for key, (shape, _) in official_shapes(variant).items()
    }


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCE / "golden" / f"{name}.npz"))


def _rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill_state_dict", REFERENCE / "fill_state_dict.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
