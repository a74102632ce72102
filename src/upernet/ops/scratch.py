"""Memory of kernels that is kept: buffers from call to call, and large results until nobody has them any more.

What is allocated anew comes from the system, which maps and clears it page by page at the first touch, and unmaps it in
the end. For a map of 32 MB that takes as long as some kernels.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref

import torch
from torch import Tensor

MOST_BYTES = 2**26
"""What a buffer may have at most to be kept."""
LARGE_BYTES = 2**22
"""Two of the large pages that Linux has on most processors. What is smaller, the system's allocator keeps by itself."""
MOST_KEPT_BYTES = 2**28
"""What results that nobody has any more may have together to be kept."""


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


class _Pool:
    """Anonymous maps whose tensors are gone, to be used again."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finalizer may run in the middle of a call in the same thread
        self.free: list[mmap.mmap] = []

    def take(self, size: int) -> mmap.mmap:
        """A map of at least `size` bytes, of any content."""
        with self.lock:
            fitting = [block for block in self.free if size <= len(block) <= 2 * size]
            if fitting:
                smallest = min(fitting, key=len)
                self.free.remove(smallest)
                return smallest
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        return block

    def give_back(self, block: mmap.mmap) -> None:
        with self.lock:
            self.free.append(block)
            while sum(map(len, self.free)) > MOST_KEPT_BYTES:
                del self.free[0]  # unmaps it


_pool = _Pool()


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """`torch.empty` on the CPU. Large memory is used again when the last tensor on it is gone."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE_BYTES or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(shape, dtype=dtype, device="cpu")
    block = _pool.take(size)
    view = memoryview(block)
    weakref.finalize(view, _pool.give_back, block).atexit = False  # the tensor's storage holds the view
    return torch.frombuffer(view, dtype=dtype, count=math.prod(shape)).view(shape)
