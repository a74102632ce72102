"""How the C library treats the memory of freed tensors.

GNU's malloc returns every block of more than 32 MiB to the system as soon as it is freed, and smaller ones once enough
of them are free at the end of the heap. A training step allocates and frees the same few gigabytes again and again, and
the system maps and clears each page anew; so does, on a smaller scale, the network that parses one photo after another.
A server has the opposite problem: answers that live for seconds lie between the tensors of the network, so that little
is ever free at the end of the heap, and the process grows.

State of this module: how malloc is to treat freed memory, outside of and inside `kept_heap`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upernet.ops.runtime.memory import on_release

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3)."""
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
"""No block is mapped by itself, and 2 GiB at the end of the heap stay in the process."""
PARTLY_KEPT = {M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**28}
"""Blocks from 32 MiB on are mapped by themselves, and 256 MiB at the end of the heap stay in the process."""
USUAL = {M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26}
"""The values that GNU's malloc has, or reaches by itself in a program that frees large blocks."""


class _Settings:
    """Parameters of malloc outside of `kept_heap`, and how many of its contexts last."""

    outside = USUAL
    contexts = 0


def _apply(library: ctypes.CDLL) -> None:
    for parameter, value in (KEPT if _Settings.contexts else _Settings.outside).items():
        library.mallopt(parameter, value)


def keep_part_of_heap() -> None:
    """Keep up to 256 MiB of the memory of freed tensors in this process from now on; `release_memory` frees it.

    Tensors of 32 MiB and more still return their memory at once.

    This does nothing where the C library is not GNU's, or if environment variables set how it allocates.
    """
    library = _gnu_library()
    if library is not None and _Settings.outside is USUAL:
        _Settings.outside = PARTLY_KEPT
        _apply(library)


def _trim() -> None:
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


on_release(_trim)


@contextmanager
def kept_heap() -> Iterator[None]:
    """Keep the memory of freed tensors in this process while the context lasts, for the tensors that come next.

    Results stay the same. This does nothing where the C library is not GNU's, or if environment variables set how it
    allocates.
    """
    library = _gnu_library()
    if library is None:
        yield
        return
    _Settings.contexts += 1
    _apply(library)
    try:
        yield
    finally:
        _Settings.contexts -= 1
        _apply(library)
        library.malloc_trim(0)


class HeapTrimmer:
    """Gives freed memory back to the system each time that the process has grown by `growth` bytes.

    To give it back after every step would cost much time, because the next step maps it again.
    """

    def __init__(self, growth: int = 2**29):
        self.growth = growth
        self._library = _gnu_library()
        self._least = 0 if self._library is None else _resident_bytes()

    def __call__(self) -> None:
        """Give back what is free, if the process has grown; it does nothing where the C library is not GNU's."""
        if self._library is None:
            return
        resident = _resident_bytes()
        if resident > self._least + self.growth:
            self._library.malloc_trim(0)
            self._least = _resident_bytes()
        else:
            self._least = min(self._least, resident)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _gnu_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return None
    if any(name.startswith("MALLOC_") for name in os.environ):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
