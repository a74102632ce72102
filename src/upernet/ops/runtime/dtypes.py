"""Working precision: the dtype that kernels accumulate in."""

from __future__ import annotations

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if any tensor is float64, and float32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def to_working_precision(*tensors: Tensor) -> list[Tensor]:
    """Convert all tensors to their common `working_dtype`."""
    dtype = working_dtype(*tensors)
    return [t.to(dtype) for t in tensors]
