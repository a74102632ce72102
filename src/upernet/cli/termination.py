"""SIGTERM, which ends the commands as Ctrl-C does."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that it ends the program as Ctrl-C does: what is unfinished is removed."""


@contextmanager
def terminable() -> Generator[None, None, None]:
    """Let SIGTERM raise `Terminated` in the block."""
    import signal

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
