"""Runs a function on a number of torch's threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def on_threads(threads: int, function: Callable[[], Result]) -> Result:
    """Return what `function` returns on this number of threads."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        return function()
    finally:
        torch.set_num_threads(before)
