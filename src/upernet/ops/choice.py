"""Which kernel of an operator runs: one decision per call from the tensor at hand, and an override."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

OVERRIDES: dict[str, str] = {}
_recordings: list[list[Decision]] = []


class Choice(NamedTuple):
    """The kernel that runs, and why it and no other."""

    kernel: str
    reason: str


class Decision(NamedTuple):
    """One call of an operator: which kernel ran for what, and why."""

    operator: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    kernel: str
    reason: str


def decide(operator: str, choice: Choice, *tensors: Tensor) -> str:
    """The kernel of a choice, which is written down where `recorded_decisions` listens."""
    for recording in _recordings:
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        recording.append(Decision(operator, shapes, str(tensors[0].dtype).removeprefix("torch."), *choice))
    return choice.kernel


@contextmanager
def recorded_decisions() -> Iterator[list[Decision]]:
    """The decisions of all operators called inside a with block, in any thread, in the order of the calls."""
    recording: list[Decision] = []
    _recordings.append(recording)
    try:
        yield recording
    finally:
        _recordings[:] = [each for each in _recordings if each is not recording]


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


@functools.cache
def fault_of_bfloat16() -> str:
    """Why bfloat16 would not be faster than float32 on this CPU, empty if it is."""
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN does not multiply bfloat16 on this processor"
    if fault := fault_of_numba("products_numba"):
        return fault
    from upernet.ops.products_numba import HAS_BFLOAT16

    return "" if HAS_BFLOAT16 else "this processor has no AVX-512 instructions for bfloat16"


@functools.cache
def fault_of_numba(kernels: str) -> str:
    """Why the Numba kernels in a module of `upernet.ops` cannot run in this process, empty if they can.

    Its `try_one_pixel` is called, which compiles them, or loads them from Numba's cache. A fault is warned of once.
    """
    try:
        module = importlib.import_module(f"upernet.ops.{kernels}")
        with ThreadPoolExecutor(1) as pool:  # in a thread of its own, modes like FakeTensorMode do not hold
            pool.submit(module.try_one_pixel).result()
        return ""
    except Exception as error:  # whatever stops a compiler: missing packages, versions, processors
        fault = f"Numba does not run here ({type(error).__name__}: {error})"
        warnings.warn(f"{kernels} is several times slower than it could be: {fault}", RuntimeWarning, stacklevel=3)
        return fault
