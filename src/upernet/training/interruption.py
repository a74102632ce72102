"""Ctrl-C and SIGTERM: the current iteration is finished and the state saved before the process ends."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

import torch

from upernet.distributed import sum_over_processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context in which the first SIGINT or SIGTERM is remembered, and the second one ends the process at once.

    Outside the main thread, where Python allows no signal handlers, nothing changes. A signal that the process ignores
    stays ignored, as in a job that a shell script has put into the background.

    Args:
        quiet: Do not tell the user that the request has arrived.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.signal: int | None = None
        self.quiet = quiet
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise exit_of(number)
        self.signal = number
        if not self.quiet:
            print("\nStopping after this iteration; press Ctrl-C again to stop at once.", file=sys.stderr)

    def agreed(self) -> int | None:
        """Return the signal that any process has received, the same in all processes; None if none has."""
        received = torch.tensor([float(self.signal == number) for number in SIGNALS])
        sum_over_processes(received)
        return next((number for number, count in zip(SIGNALS, received.tolist(), strict=True) if count), None)


def exit_of(number: int) -> BaseException:
    """Return the exception that ends a process as the signal `number` does: with status 130 or 143."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
