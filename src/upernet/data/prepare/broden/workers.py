"""Work on many photos by several processes, whose results arrive in any order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any, TypeVar

from upernet.data.prepare.broden.sources import Item
from upernet.errors import UpernetError

PENDING = 8
"""How many photos per process wait for their turn."""
Result = TypeVar("Result")

_functions: dict[str, Callable[[Item], Any]] = {}
"""What a worker process does with the photos of each data set."""


def work(items: Sequence[Item], functions: Mapping[str, Callable[[Item], Result]], workers: int) -> Iterator[Result]:
    """Call the function of its data set with each photo, and yield the results as they come.

    Raises:
        UpernetError: A function raised it, or a process was killed.
    """
    if workers <= 1 or len(items) < 2:
        yield from (functions[item.dataset](item) for item in items)
        return
    waiting = iter(items)
    with ProcessPoolExecutor(min(workers, len(items)), initializer=_start, initargs=(dict(functions),)) as pool:
        pending: set[Future[Result]] = set()
        try:
            while True:
                while len(pending) < PENDING * workers and (item := next(waiting, None)):
                    pending.add(pool.submit(_call, item))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise UpernetError(
                "a process that reads photos was killed, perhaps for lack of memory; run the same command again to go "
                "on, with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(functions: dict[str, Callable[[Item], Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops the pool
    Thread(target=_end_with_parent, daemon=True).start()
    _functions.update(functions)


def _end_with_parent() -> None:
    """Wait for the end of the main process, which may be killed; the pool would wait for its photos for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _call(item: Item) -> Any:
    return _functions[item.dataset](item)
