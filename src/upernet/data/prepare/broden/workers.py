"""Conversion of many photos by several processes, whose results arrive in any order."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from upernet.data.prepare.broden.converting import Converted, Converter
from upernet.data.prepare.broden.sources import Item
from upernet.errors import UpernetError

PENDING = 8
"""How many photos per process wait for their turn."""

_converters: dict[str, Converter] = {}
"""The converters of a worker process, by data set."""


def convert_all(items: Sequence[Item], converters: Mapping[str, Converter], workers: int) -> Iterator[Converted]:
    """Convert photos, and yield each when its files are written.

    Raises:
        UpernetError: A file cannot be written, or a process was killed.
    """
    if workers <= 1 or len(items) < 2:
        yield from (converters[item.dataset](item) for item in items)
        return
    waiting = iter(items)
    with ProcessPoolExecutor(min(workers, len(items)), initializer=_start, initargs=(dict(converters),)) as pool:
        pending: set[Future[Converted]] = set()
        try:
            while True:
                while len(pending) < PENDING * workers and (item := next(waiting, None)):
                    pending.add(pool.submit(_convert, item))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise UpernetError(
                "a process that converts photos was killed, perhaps for lack of memory; run the same command again to "
                "go on, with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(converters: dict[str, Converter]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops the pool
    _converters.update(converters)


def _convert(item: Item) -> Converted:
    return _converters[item.dataset](item)
