"""How far a run is: a bar on a terminal, and otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines."""


class RunProgress:
    """Shows on stderr how many photos are done, how many per second are parsed, and how long the rest takes.

    Args:
        total: Number of photos; None: it is not known.
        quiet: Whether nothing is shown.
        lines: Whether lines are printed where stderr is not a terminal.
    """

    def __init__(self, total: int | None, *, quiet: bool = False, lines: bool = False):
        console = Console(stderr=True)
        self._total = total
        self._bar = Progress(
            TextColumn("parsing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # otherwise, rich would send piped output to stderr
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("parsing", total=total, rate="")
        self._lines = lines and not quiet and not console.is_terminal
        self._start = self._printed = time.monotonic()
        self._done = self._parsed = 0

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def rate(self) -> float:
        """Photos that have been parsed per second."""
        return self._parsed / max(time.monotonic() - self._start, 1e-9)

    def advance(self, parsed: bool) -> None:
        """Count a photo.

        Args:
            parsed: Whether it has been parsed in this run.
        """
        self._done += 1
        self._parsed += parsed
        self._bar.update(self._task, advance=1, rate=f"{self.rate:.1f} photos/s")
        if self._lines and time.monotonic() - self._printed >= EVERY:
            self._printed = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return what is done as a line."""
        of, left = "", ""
        if self._total is not None:
            of = f" of {self._total}"
            if self._parsed:
                left = f", {duration((self._total - self._done) / self.rate)} left"
        return f"upernet: {self._done}{of} photos, {self.rate:.1f} photos/s{left}."


def duration(seconds: float) -> str:
    """Return a duration in hours, minutes and seconds.

    Example:
        >>> duration(3725.4)
        '1 h 2 min'
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
