"""Compilation of kernels by a second process, when an installation is used for the first time.

Numba compiles one kernel at a time, on one core. A forked process compiles those that a parse needs last, while this
one loads the model and compiles those that it needs first. Numba's cache on disk is where they meet. If this process
needs a kernel that the other one is about to finish, it compiles the next of the others meanwhile.

State of this module: the second process, begun at most once per process, and what is known of its work.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
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


class _SharedWork:
    """Modules that two processes compile. Pipes hold the numbers of modules, one byte each: reading one claims it."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules = {module.__name__.removeprefix("upernet.ops."): module for module in modules}
        self.lock = threading.RLock()
        self.finished: set[int] = set()
        self.waiting, queue = os.pipe()
        os.write(queue, bytes(range(len(modules))))
        os.close(queue)
        self.reports, report = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=self.compile_all, args=(report,), daemon=True)
        process.start()
        os.close(report)  # so that the pipe ends when the other process does
        threading.Thread(target=process.join, daemon=True).start()  # so that it leaves no zombie

    def compile_next(self) -> bytes:
        """Claim a module and compile it. Returns its number, or nothing if all are claimed."""
        claimed = os.read(self.waiting, 1)
        if claimed:
            with suppress(Exception):  # what stops Numba is reported where a kernel is needed
                list(self.modules.values())[claimed[0]].warm_up()
        return claimed

    def compile_all(self, report: int) -> None:
        """Do the work of the second process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the first process, which ends this one
        while number := self.compile_next():
            os.write(report, number)

    def finish(self, name: str) -> None:
        """Return when a module has been compiled or the second process has ended; compile others meanwhile."""
        with self.lock:
            number = list(self.modules).index(name)
            while number not in self.finished and (done := self.compile_next()):
                self.finished.update(done)
            while number not in self.finished and (done := os.read(self.reports, 1)):
                self.finished.update(done)


_shared: list[_SharedWork] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.clear)


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
            _shared.append(_SharedWork(new))


def finish(module: str) -> None:
    """Return when the second process does not compile this module of `upernet.ops`, if it ever did."""
    for work in _shared:
        if module in work.modules:
            work.finish(module)


def _is_new(module: Any) -> bool:
    """Return whether Numba has a place for the kernels of a module, and nothing there since the source changed."""
    from numba.core.dispatcher import Dispatcher

    kernels = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
    places = {Path(place) for kernel in kernels if (place := kernel.stats.cache_path)}
    source = Path(module.__file__)
    found = [path for place in places for path in place.glob(f"{source.stem}.*.nbi")]
    return bool(places) and not any(path.stat().st_mtime > source.stat().st_mtime for path in found)
