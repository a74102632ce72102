"""How long the threads of a team wait for each other before they go to sleep.

A parallel region ends when its slowest thread has finished. GNU's OpenMP, which torch's wheels contain, lets the others
spin for milliseconds before they sleep. On idle cores, that saves the time to wake them. On a core that something else
needs as well, the spinning threads use up their share of it, and when there is work, they are the ones that the
scheduler stops. Measured on two cores, of which another process kept one busy: with long waits, two threads take up to
twice as long as one; with short waits, they take less time than one (docs/performance.md).

The duration cannot be set once the library is loaded, but it depends on a count: while a process has more OpenMP
threads than cores, they spin for a few microseconds (gomp_throttled_spin_count_var in libgomp). So while the
cores are contended, one Python thread holds a second team, which sleeps. The number of threads that compute, and thus
every result, stays the same.

The cores are contended if our threads wait for one: the kernel counts the time that each was ready to run and did not.
That includes all causes: other processes, other containers on the same host, workers and threads of our own.

State of this module: when the delays were last read, what they were, and the second team. A forked child has none.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from upernet.ops.runtime.cores import affinity
from upernet.ops.runtime.openmp import computes_alone, openmp

INTERVAL = 0.2
"""Seconds after which the delays are read again."""
TOLERATED = 0.05
"""Seconds of delay per second, summed over all threads, that count as none."""
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables with which users choose how threads wait."""
MOST_SLEEPING = 64
"""Size of the second team up to which it is made; with many cores and few threads, it would have to be larger."""


def adapt_waiting() -> None:
    """Make threads wait only briefly for each other if the cores are contended, and longer if they are not.

    What counts is the time since the last call that looked. A call costs less than a microsecond, and five times a
    second about 0.1 ms. It changes nothing if the user chose how threads wait, or if torch's OpenMP is not GNU's.
    """
    global _moment, _delays
    library = openmp()
    if time.monotonic() - _moment < INTERVAL or library is None or computes_alone():
        return
    if not _lock.acquire(blocking=False):
        return
    try:
        moment, delays, threads = time.monotonic(), run_delays(), torch.get_num_threads()
        contended = delay_between(_delays, delays) > TOLERATED * (moment - _moment)
        _moment, _delays = moment, delays
        if not any(os.environ.get(name) for name in WAIT_VARIABLES):
            _wait_briefly(library, threads, contended and threads > 1)
    finally:
        _lock.release()


def waits_briefly() -> bool:
    """Return whether threads wait only briefly for each other at present, because the cores are contended."""
    return _team is not None


def run_delays(tasks: Path = Path("/proc/self/task")) -> dict[str, float]:
    """Return the seconds for which each thread of this process was ready to run and had no core.

    The result is empty where the kernel does not say.

    Args:
        tasks: Folder with a folder per thread (man 5 proc).
    """
    delays: dict[str, float] = {}
    try:
        for thread in os.listdir(tasks):
            try:
                delays[thread] = run_delay((tasks / thread / "schedstat").read_text(encoding="ascii"))
            except (FileNotFoundError, ProcessLookupError):  # the thread has ended
                continue
    except OSError:
        return {}
    return delays


def run_delay(schedstat: str) -> float:
    """Return the seconds of delay in a `schedstat`: nanoseconds on a core, nanoseconds of delay, turns on a core."""
    return int(schedstat.split()[1]) / 1e9


def delay_between(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the seconds of delay of all threads that exist in `after`; those that are not in `before` are new."""
    return sum(delay - before.get(thread, 0.0) for thread, delay in after.items())


class _SleepingTeam:
    """A team of OpenMP threads that does nothing, so that the library counts more threads than cores."""

    def __init__(self, library: ctypes.CDLL, threads: int):
        self.threads = threads
        self._library = library
        self._formed, self._dissolve = threading.Event(), threading.Event()
        self._owner = threading.Thread(target=self._hold, name="upernet-waiting", daemon=True)
        self._owner.start()
        self._formed.wait()

    def _hold(self) -> None:
        nothing = ctypes.cast(self._library.omp_get_num_threads, ctypes.c_void_p)
        self._library.GOMP_parallel(nothing, None, self.threads, 0)
        self._formed.set()
        self._dissolve.wait()  # the library ends the team with the thread that made it

    def dissolve(self) -> None:
        self._dissolve.set()
        self._owner.join()


def _wait_briefly(library: ctypes.CDLL, threads: int, briefly: bool) -> None:
    global _team
    # The library counts the main thread once, and all but one of each team.
    needed = max(2, _cores - threads + 2) if briefly else 0
    if _team is not None and (not briefly or _team.threads < needed):
        _team.dissolve()
        _team = None
    if _team is None and 0 < needed <= MOST_SLEEPING:
        with suppress(RuntimeError):  # the system allows no more threads, or Python is about to end
            _team = _SleepingTeam(library, needed)


_lock = threading.Lock()
_cores = len(affinity())
_moment = time.monotonic()
_delays = run_delays()
_team: _SleepingTeam | None = None
