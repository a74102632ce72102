"""Memory of kernels: buffers that are kept from call to call, and large maps on large pages.

What is allocated anew comes from the system, which maps and clears it page by page at the first touch. At 4 KiB a page,
that takes as long as some kernels.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
import threading
from collections.abc import Callable

import torch
from torch import Tensor

MOST_BYTES = 2**26
"""What a buffer may have at most to be kept."""
PAGE = 2**12
LARGE_BYTES = 2**22
"""Two of the large pages that Linux has on most processors; with fewer there is nothing to gain."""
MADV_HUGEPAGE = 14


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}


_buffers = _Buffers()


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor on the CPU with any content, which the next call with this name in this thread overwrites."""
    size = math.prod(shape)
    kept = _buffers.kept.get((name, dtype))
    if kept is None or kept.numel() < size:
        kept = empty(size, dtype=dtype)
        if size * dtype.itemsize <= MOST_BYTES:
            _buffers.kept[name, dtype] = kept
    return kept[:size].view(shape)


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """`torch.empty` on the CPU; Linux is advised to take large pages where it has not taken any yet."""
    x = torch.empty(shape, dtype=dtype, device="cpu")
    advise = _madvise()
    if advise and x.nbytes >= LARGE_BYTES:
        start = -(-x.data_ptr() // PAGE) * PAGE
        advise(start, (x.data_ptr() + x.nbytes - start) // PAGE * PAGE, MADV_HUGEPAGE)  # an error changes nothing
    return x


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
