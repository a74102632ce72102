"""How the tests see a finished command."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    status: int
    stdout: str
    stderr: str


Run = Callable[..., Result]
