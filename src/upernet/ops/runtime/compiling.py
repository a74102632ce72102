"""Compilation of kernels by a second process, when an installation is used for the first time.

Numba compiles one kernel at a time, on one core. A forked process compiles those that a parse needs last, while this
one loads the model and compiles those that it needs first. Numba's cache on disk is where they meet: what is not there
when it is needed is compiled here.

State of this module: whether the second process has been begun, which happens at most once per process.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from upernet.ops.runtime.cores import usable_cores

LAST = ("conv3x3.winograd_tiles_cpu", "upsampled.cpu", "guided.cpu", "thresholds.cpu")
"""Modules of `upernet.ops` whose `warm_up` compiles what a parse needs last."""


@functools.cache
def compile_ahead(modules: tuple[str, ...] = LAST) -> None:
    """Begin to compile the kernels of those of these modules in another process of which Numba's cache has none.

    The process ends when it has done so, at the latest with this one. Nothing happens where there is one core, or no
    place for the cache, or where the system is not Linux: elsewhere, libraries do not survive a fork.
    """
    if sys.platform != "linux" or usable_cores() < 2:
        return
    with suppress(Exception):  # what stops Numba is reported where a kernel is needed
        loaded = [importlib.import_module(f"upernet.ops.{name}") for name in modules]
        if new := [module for module in loaded if _is_new(module)]:
            process = multiprocessing.get_context("fork").Process(target=_compile, args=(new,), daemon=True)
            process.start()
            threading.Thread(target=process.join, daemon=True).start()  # so that it leaves no zombie


def _is_new(module: Any) -> bool:
    """Return whether Numba has a place for the kernels of a module, and nothing there since the source changed."""
    from numba.core.dispatcher import Dispatcher

    kernels = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
    places = {Path(place) for kernel in kernels if (place := kernel.stats.cache_path)}
    source = Path(module.__file__)
    found = [path for place in places for path in place.glob(f"{source.stem}.*.nbi")]
    return bool(places) and not any(path.stat().st_mtime > source.stat().st_mtime for path in found)


def _compile(modules: Sequence[Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the first process, which ends this one
    for module in modules:
        with suppress(Exception):
            module.warm_up()
