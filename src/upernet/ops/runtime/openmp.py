"""The OpenMP library whose threads torch computes on, if it has GNU's interface.

State of this module: the library, which is found once per process, `_forked`, which is set in forked children, and
which Python threads compute alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from pathlib import Path

import torch

_forked = False
_thread = threading.local()


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def openmp() -> ctypes.CDLL | None:
    """Return the library, or None if it has no `GOMP_parallel` (macOS, Windows) or cannot be used.

    It cannot be used in a forked child, because no team of threads survives that.
    """
    return None if _forked else _library()


def parallel() -> int:
    """Return the address of the library's `GOMP_parallel`, or 0 if `openmp()` is None."""
    return 0 if _forked else _parallel()


def compute_alone() -> None:
    """Let torch and the kernels compute on one thread whenever this Python thread calls them; others do not change."""
    _thread.alone = True
    if (library := openmp()) is not None:
        torch.get_num_threads()  # at the first use in a thread, torch sets the number for it
        library.omp_set_num_threads(1)  # torch.set_num_threads would set it for all threads


def computes_alone() -> bool:
    """Return whether this Python thread has called `compute_alone`."""
    return getattr(_thread, "alone", False)


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library if library.GOMP_parallel else None
    except (OSError, AttributeError):
        return None


@functools.cache
def _parallel() -> int:
    library = _library()
    return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0 if library else 0
