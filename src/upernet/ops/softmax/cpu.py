"""Softmax over short runs and its gradient with Numba, in blocks of whole runs whose exponentials are vectorized."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.simd import LANES, exp, load, store
from upernet.ops.runtime.threads import jit, kernel, run, take

RUNS_PER_UNIT = 2048
"""Runs that one thread processes before it fetches the next unit."""
RUNS_PER_BLOCK = 64
"""Runs in a block; with 9 points each, its 2 KiB stay in the L1 cache between the passes."""


@jit
def softmax_of_runs(x, at, count, points, block, out, to):
    """Write the softmax of `count` runs of x from `at` on to out from `to` on; `block` has room for all, in LANES."""
    for r in range(count):
        first = at + r * points
        largest = x[first]
        for p in range(1, points):
            largest = max(largest, x[first + p])
        for p in range(points):
            block[r * points + p] = x[first + p] - largest
    for i in range(0, count * points, LANES):
        store(block, i, exp(load(block, i)))
    for r in range(count):
        total = np.float32(0)
        for p in range(points):
            total += block[r * points + p]
        factor = np.float32(1) / total
        for p in range(points):
            out[to + r * points + p] = block[r * points + p] * factor


@kernel
def _forward(counter, x, out, runs, points):
    block = np.empty(-(-RUNS_PER_BLOCK * points // LANES) * LANES, np.float32)
    while True:
        unit = take(counter)
        if unit * RUNS_PER_UNIT >= runs:
            return
        for start in range(unit * RUNS_PER_UNIT, min((unit + 1) * RUNS_PER_UNIT, runs), RUNS_PER_BLOCK):
            count = min(RUNS_PER_BLOCK, runs - start)
            softmax_of_runs(x, start * points, count, points, block, out, start * points)


@kernel
def _backward(counter, grad, out, result, runs, points):
    while True:
        unit = take(counter)
        if unit * RUNS_PER_UNIT >= runs:
            return
        for r in range(unit * RUNS_PER_UNIT, min((unit + 1) * RUNS_PER_UNIT, runs)):
            total = np.float32(0)
            for i in range(r * points, (r + 1) * points):
                total += grad[i] * out[i]
            for i in range(r * points, (r + 1) * points):
                result[i] = out[i] * (grad[i] - total)


def _run(kernel, tensors: tuple[Tensor, ...], groups: int) -> Tensor:
    result = tensors[0].new_empty(tensors[0].shape)
    points = result.shape[-1] // groups
    runs = result.numel() // points
    flat = [tensor.detach().contiguous().numpy().reshape(-1) for tensor in tensors]
    run(kernel, -(-runs // RUNS_PER_UNIT), *flat, result.numpy().reshape(-1), runs, points)
    return result


def forward(x: Tensor, groups: int) -> Tensor:
    """Compute `upernet.ops.grouped_softmax`."""
    return _run(_forward, (x,), groups)


def backward(grad: Tensor, out: Tensor, groups: int) -> Tensor:
    """Return the gradient of x from that of the result and from the result."""
    return _run(_backward, (grad, out), groups)


def warm_up() -> None:
    """Compile the forward kernel, or load it from Numba's cache, and run it on two numbers."""
    forward(torch.zeros(1, 2, dtype=torch.float32), 1)
