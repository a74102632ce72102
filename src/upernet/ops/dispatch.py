"""Kernel dispatch: every operator makes one decision per call, from the tensors at hand, and can say why.

State of this module: the overrides of `use_kernel` and the lists of `recorded_decisions`, both in context variables.
They apply to the thread (or asyncio task) that entered the block and to no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

_overrides: ContextVar[Mapping[str, str]] = ContextVar("upernet_kernel_overrides", default={})  # noqa: B039 (read only)
_recordings: ContextVar[tuple[list[Decision], ...]] = ContextVar("upernet_recordings", default=())

OVERRIDDEN = "requested with use_kernel"
"""Reason of a choice that `use_kernel` made."""


class Choice(NamedTuple):
    """The kernel that runs, and the reason for it."""

    kernel: str
    reason: str


class Decision(NamedTuple):
    """One call of an operator: which kernel ran on what, and why."""

    operator: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    kernel: str
    reason: str


def overrides() -> Mapping[str, str]:
    """Return `{operator: kernel}` as set by the `use_kernel` blocks around this call."""
    return _overrides.get()


def override(operator: str) -> str | None:
    """Return the kernel that `use_kernel` set for `operator`, or None."""
    return _overrides.get().get(operator)


# torch.compile cannot trace context variables: it calls the function once and keeps the result. (This is what
# torch.compiler.assume_constant_result does, which would import the compiler.)
override._dynamo_marked_constant = True  # type: ignore[attr-defined]


def decide(operator: str, choice: Choice, *tensors: Tensor) -> str:
    """Return the kernel of `choice`, and append the decision to the active `recorded_decisions` lists."""
    if not torch.compiler.is_compiling():
        for recording in _recordings.get():
            shapes = tuple(tuple(tensor.shape) for tensor in tensors)
            recording.append(Decision(operator, shapes, str(tensors[0].dtype).removeprefix("torch."), *choice))
    return choice.kernel


@contextmanager
def recorded_decisions() -> Iterator[list[Decision]]:
    """Collect the decisions of all operators that this thread calls inside the block, in order."""
    recording: list[Decision] = []
    token = _recordings.set((*_recordings.get(), recording))
    try:
        yield recording
    finally:
        _recordings.reset(token)


@contextmanager
def use_kernel(**kernels: str) -> Iterator[None]:
    """Make operators use the named kernels inside the block.

    For example, `with use_kernel(dcnv3="torch"): ...`.

    The override applies to this thread only, and to the backward pass of whatever the block computes, on whichever
    thread and whenever that runs. A kernel that cannot process the given tensors raises an error; there is no fallback.
    A function that `torch.compile` has compiled keeps the kernels that it was compiled with.

    Raises:
        ValueError: There is no such operator.
    """
    from upernet.ops import OPERATORS  # imported here because the operators import this module

    if unknown := [name for name in kernels if name not in OPERATORS]:
        raise ValueError(f"use_kernel: no operator {', '.join(unknown)}; they are {', '.join(OPERATORS)}")
    token = _overrides.set({**_overrides.get(), **kernels})
    try:
        yield
    finally:
        _overrides.reset(token)
