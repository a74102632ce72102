"""Memory that kernels reuse: scratch buffers, and the memory of large results that are no longer referenced.

Newly allocated memory comes from the system, which maps and clears it page by page at the first touch and unmaps it
in the end. For a map of 32 MB, that takes as long as some kernels.

State of this module, shared by all threads and guarded by a lock:

* `ScratchBuffer` keeps at most `MAX_SCRATCH_BYTES` over all owners and threads, and drops the least recently used
  buffers first.
* `empty` keeps at most `MAX_POOL_BYTES` of memory whose tensors are gone.

`release_memory` drops all of it, and what other modules registered with `on_release`. Tensors that are in use stay
valid, because they own their memory.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

MAX_BUFFER_BYTES = 2**26
"""Largest scratch buffer that is kept."""
MAX_SCRATCH_BYTES = 2**28
"""Total size of the scratch buffers that are kept."""
LARGE_BYTES = 2**22
"""Smallest result whose memory is reused: two large pages of most processors. The system's allocator keeps smaller
blocks by itself."""
MAX_POOL_BYTES = 2**28
"""Total size of the unused memory that is kept for large results."""


class _Kept:
    """The scratch buffers that are kept: (thread, owner, dtype) -> tensor, least recently used first."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: a finalizer may run in the middle of a call in the same thread
        self.buffers: OrderedDict[tuple[int, int, torch.dtype], Tensor] = OrderedDict()
        self.bytes = 0

    def take(self, key: tuple[int, int, torch.dtype], size: int) -> Tensor | None:
        with self.lock:
            buffer = self.buffers.get(key)
            if buffer is None or buffer.numel() < size:
                return None
            self.buffers.move_to_end(key)
            return buffer

    def keep(self, key: tuple[int, int, torch.dtype], buffer: Tensor) -> None:
        with self.lock:
            self.drop(key)
            self.buffers[key] = buffer
            self.bytes += buffer.nbytes
            while self.bytes > MAX_SCRATCH_BYTES:
                self.drop(next(iter(self.buffers)))

    def drop(self, key: tuple[int, int, torch.dtype]) -> None:
        buffer = self.buffers.pop(key, None)
        if buffer is not None:
            self.bytes -= buffer.nbytes

    def clear(self) -> None:
        with self.lock:
            self.buffers.clear()
            self.bytes = 0


class ScratchBuffer:
    """Working memory of one owner. Every owner creates its own instance, so no two ever share a buffer."""

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous CPU tensor with arbitrary content.

        The next call of this instance in this thread returns the same memory again.
        """
        size = math.prod(shape)
        key = (threading.get_ident(), id(self), dtype)
        buffer = _scratch.take(key, size)
        if buffer is None:
            buffer = torch.empty(size, dtype=dtype, device="cpu")
            if buffer.nbytes <= MAX_BUFFER_BYTES:
                _scratch.keep(key, buffer)
        return buffer[:size].view(shape)


class _Pool:
    """Anonymous memory maps whose tensors are gone, for reuse."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.free: list[mmap.mmap] = []

    def take(self, size: int) -> mmap.mmap:
        """Return a map of at least `size` bytes with arbitrary content."""
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
            while sum(map(len, self.free)) > MAX_POOL_BYTES:
                del self.free[0]  # unmaps it

    def clear(self) -> None:
        with self.lock:
            self.free.clear()


_scratch = _Kept()
_pool = _Pool()
_release: list[Callable[[], None]] = [lambda: _scratch.clear(), lambda: _pool.clear()]


def _after_fork() -> None:
    """Start over in a forked child: another thread may have held a lock at the fork."""
    global _scratch, _pool
    _scratch, _pool = _Kept(), _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return an uninitialized CPU tensor, like `torch.empty`; large memory is reused once no tensor refers to it."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE_BYTES or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(shape, dtype=dtype, device="cpu")
    pool = _pool
    block = pool.take(size)
    view = memoryview(block)
    weakref.finalize(view, pool.give_back, block).atexit = False  # the tensor's storage holds the view
    return torch.frombuffer(view, dtype=dtype, count=math.prod(shape)).view(shape)


def on_release(callback: Callable[[], None]) -> None:
    """Call `callback` whenever `release_memory` is called."""
    _release.append(callback)


def kept_bytes() -> int:
    """Return the size of the scratch buffers and of the unused large memory that this process keeps."""
    with _pool.lock:
        return _scratch.bytes + sum(map(len, _pool.free))


def release_memory() -> None:
    """Free the memory that kernels keep between calls: scratch buffers, unused large results, packed weights.

    Any thread may call this at any time. Kernels that are running finish correctly; the next calls allocate anew, and
    pack the weights of 3x3 convolutions again.
    """
    for callback in _release:
        callback()
