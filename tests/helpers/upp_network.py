"""Published networks of Unified Perceptual Parsing for tests: two state dicts, with weights that the rule makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from helpers.official_network import load_rule
from helpers.shared import REFERENCE
from torch import Tensor

HALVES = ("encoder", "decoder")
OWN_BUFFERS = ("_tmp_running_mean", "_tmp_running_var", "_running_iter")
"""What the batch norm of the released code stores beside torch's."""


def official_shapes(variant: str, half: str) -> dict[str, tuple[list[int], str]]:
    """Return the published name -> (shape, dtype) of every tensor of the encoder or decoder of a variant."""
    keys = json.loads((REFERENCE / "keys" / f"keys_upp_{variant}.json").read_text())
    return {key: (shape, dtype) for key, shape, dtype in keys[half]}


def official_half(variant: str, half: str) -> dict[str, Tensor]:
    """Return the state dict of the encoder or decoder, with values made by the rule."""
    value: Callable[..., np.ndarray] = load_rule().value
    shapes = official_shapes(variant, half)
    return {
        key: torch.from_numpy(np.asarray(value(f"{half}.{key}", shape))).reshape(shape)
        for key, (shape, _) in shapes.items()
    }


def save_pair(folder: Path, encoder: dict[str, Tensor], decoder: dict[str, Tensor], epoch: int = 40) -> Path:
    """Write the two files of a model, as the released code names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for half, state in zip(HALVES, (encoder, decoder), strict=True):
        torch.save(state, folder / f"{half}_epoch_{epoch}.pth")
    return folder
