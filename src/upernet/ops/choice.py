"""Which kernel of an operator runs: one decision per call from the tensor at hand, and an override."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

OVERRIDES: dict[str, str] = {}


class Choice(NamedTuple):
    """The kernel that runs, and why it and no other."""

    kernel: str
    reason: str


@contextmanager
def use_kernel(**kernels: str) -> Iterator[None]:
    """Make operators use the named kernels inside a with block, for tests and benchmarks.

    `with use_kernel(dcnv3="torch"): ...`. It holds for the whole process, backward passes and other threads included. A
    kernel that cannot run on the tensors at hand raises the error that it meets: there is no second choice.
    """
    before = dict(OVERRIDES)
    OVERRIDES.update(kernels)
    try:
        yield
    finally:
        OVERRIDES.clear()
        OVERRIDES.update(before)
