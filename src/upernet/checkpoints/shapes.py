"""Whether tensors fit a network, and the table that says where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from upernet.errors import UpernetError

SHOWN = 10
"""Lines of the table that an error shows."""


def differences(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> `file SHAPE -> model SHAPE`, for every tensor that only one side has or whose shapes differ."""
    return {
        key: f"file {_shape(tensors.get(key))} -> model {_shape(wanted.get(key))}"
        for key in dict.fromkeys([*wanted, *tensors])
        if _shape(tensors.get(key)) != _shape(wanted.get(key))
    }


def mismatch(path: Path, model: str, wrong: Mapping[str, str], cause: str = "") -> UpernetError:
    """The error that says that the file at `path` does not fit `model`, why (as far as known), and where."""
    lines = [f"  {key}: {shapes}" for key, shapes in list(wrong.items())[:SHOWN]]
    more = [f"  and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    because = f" ({cause})" if cause else ""
    first = f"{path}: its weights do not fit {model}{because}:"
    return UpernetError("\n".join([first, *lines, *more]))


def _shape(tensor: Tensor | None) -> str:
    return "-" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
