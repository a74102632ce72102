"""Comparison of the tensors of a file with those of a network, and the error that lists the differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from upernet.errors import UpernetError

SHOWN = 10
"""Largest number of tensors that an error lists."""


def compare_shapes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {name: `file SHAPE -> model SHAPE`} for every tensor that one side lacks or whose shapes differ."""
    return {
        key: f"file {_shape(tensors.get(key))} -> model {_shape(wanted.get(key))}"
        for key in dict.fromkeys([*wanted, *tensors])
        if _shape(tensors.get(key)) != _shape(wanted.get(key))
    }


def shape_error(path: Path, model: str, differences: Mapping[str, str], cause: str = "") -> UpernetError:
    """Return the error that the file at `path` does not fit `model`.

    Args:
        path: the file.
        model: name of the model, or of the part of it that was to be filled.
        differences: the result of `compare_shapes`; the first `SHOWN` are listed.
        cause: likely cause in words, or "" if it is not known.
    """
    lines = [f"  {key}: {shapes}" for key, shapes in list(differences.items())[:SHOWN]]
    more = [f"  and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
    because = f" ({cause})" if cause else ""
    first = f"{path}: its weights do not fit {model}{because}:"
    return UpernetError("\n".join([first, *lines, *more]))


def is_counter(key: str) -> bool:
    """Return whether `key` names a batch norm's count of batches, which nothing here reads and old files lack."""
    return key.endswith(".num_batches_tracked")


def is_optional(key: str) -> bool:
    """Return whether the weights of a backbone may lack `key`, a name in the whole network.

    Weights from ImageNet have no norms of features, which only segmentation adds, and old files do not count batches.
    """
    return is_counter(key) or key.startswith("backbone.norms.")


def _shape(tensor: Tensor | None) -> str:
    return "-" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
