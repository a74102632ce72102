"""Working memory of kernels, kept from call to call: what is allocated anew has to be mapped page by page first."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

MOST_BYTES = 2**26
"""What a buffer may have at most to be kept."""


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}


_buffers = _Buffers()


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor on the CPU with any content, which the next call with this name in this thread overwrites."""
    size = math.prod(shape)
    kept = _buffers.kept.get((name, dtype))
    if kept is None or kept.numel() < size:
        kept = torch.empty(size, dtype=dtype, device="cpu")
        if size * dtype.itemsize <= MOST_BYTES:
            _buffers.kept[name, dtype] = kept
    return kept[:size].view(shape)
