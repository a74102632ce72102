"""The live line of a run: where it is, whether it learns, and how long it takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from upernet.training.history import IterationRecord

SMOOTHING = 0.95
"""Weight of the earlier iterations in the smoothed loss and speed."""
PLAIN_EVERY = 30.0
"""Seconds between two plain lines, where there is no terminal."""


class LiveLine:
    """Shows the smoothed loss, learning rate, speed, remaining time, and the last and the best validation.

    On a terminal, the numbers change in place below a bar. Elsewhere, plain lines are written: after the first
    iteration, then every `PLAIN_EVERY` seconds, after each validation, and at the end.

    Args:
        total: Number of iterations of all stages.
        done: Number of iterations that are done.
        quiet: Show nothing.
        console: Console for both; None: stderr.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        total: int,
        done: int,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done = total, done
        self.console = console or Console(file=sys.stderr)
        self.quiet, self.clock = quiet, clock
        self.scores = ""
        self._loss, self._seconds, self._weight = 0.0, 0.0, 0.0
        self._rate = 0.0
        self._last = clock()
        self._shown = self._last - PLAIN_EVERY
        self._printed = ""
        self._live = None if quiet or not self.console.is_terminal else Live(console=self.console, auto_refresh=False)

    def start(self) -> None:
        """Begin to show the line."""
        if self._live is not None:
            self._live.start()

    def stop(self) -> None:
        """Leave the line as it is."""
        if self._live is not None:
            self._live.stop()
        elif self._weight and self._printed != self.text():
            self._show(now=True)

    def advance(self, record: IterationRecord) -> None:
        """Show another iteration."""
        self.show(record["iteration"], record["learning_rate"], record["loss"], record["seconds"])

    def show(self, done: int, rate: float, loss: float, seconds: float | None = None) -> None:
        """Show that `done` iterations are done.

        Args:
            done: Number of iterations.
            rate: Learning rate of the last one.
            loss: Its loss.
            seconds: Its duration; None: since the last call.
        """
        now = self.clock()
        seconds, self._last = now - self._last if seconds is None else seconds, now
        self.done, self._rate = done, rate
        self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * loss
        self._seconds = SMOOTHING * self._seconds + (1 - SMOOTHING) * seconds
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        self._show()

    def validated(self, metric: str, value: float, best: float) -> None:
        """Show a validation from now on."""
        self.scores = f"{metric.rpartition('.')[2]} {value:.3f} best {best:.3f}"
        self._show(now=True)

    def text(self) -> str:
        """Return all numbers on one line, which fits into 80 columns."""
        return "  ".join(filter(None, [self._place, *self._numbers, self._left, self.scores]))

    @property
    def _place(self) -> str:
        return f"{self.done}/{self.total}"

    @property
    def _numbers(self) -> list[str]:
        if not self._weight:
            return []
        seconds = self._seconds / self._weight
        speed = f"{1 / seconds:.1f} it/s" if 0 < seconds <= 1 else f"{seconds:.1f} s/it"
        rate = f"{self._rate:.1e}".replace("e-0", "e-").replace("e+0", "e")
        return [f"loss {self._loss / self._weight:.3f}", f"lr {rate}", speed]

    @property
    def _left(self) -> str:
        if not self._weight:
            return ""
        return f"{duration((self.total - self.done) * self._seconds / self._weight)} left"

    def _show(self, now: bool = False) -> None:
        if self._live is not None:
            bar = Table.grid(Column(no_wrap=True), Column(ratio=1), Column(no_wrap=True), expand=True, padding=(0, 1))
            bar.add_row(self._place, ProgressBar(total=self.total, completed=self.done), self._left)
            numbers = Text("  ".join(filter(None, [*self._numbers, self.scores])), no_wrap=True, overflow="ellipsis")
            self._live.update(Group(bar, numbers), refresh=True)
        elif not self.quiet and (now or self.clock() - self._shown >= PLAIN_EVERY):
            self._shown, self._printed = self.clock(), self.text()
            self.console.print(self._printed, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Write a duration: `48 s`, `12:05 min` or `3:20 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"
