"""Copies between a 3x3 kernel and its taps on a CPU with Numba.

A copy of permuted views in torch takes the numbers one at a time from memory that is far apart. Here, a thread takes
one output of the kernel at a time, whose numbers stay in its cache.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from torch import Tensor

from upernet.ops.runtime.matmul import as_numpy, memory_of
from upernet.ops.runtime.threads import kernel, run, take


@kernel
def _copy_to_taps(counter, weight, strides, taps, outputs, channels):
    by_output, by_channel, by_row, by_column = strides
    while True:
        d = take(counter)
        if d >= outputs:
            return
        for tap in range(9):
            at = d * by_output + tap // 3 * by_row + tap % 3 * by_column
            to = (tap * outputs + d) * channels
            for c in range(channels):
                taps[to + c] = weight[at + c * by_channel]


@kernel
def _copy_from_taps(counter, taps, weight, by_output, outputs, channels):
    while True:
        d = take(counter)
        if d >= outputs:
            return
        for c in range(channels):
            for tap in range(9):
                weight[d * by_output + 9 * c + tap] = taps[(tap * outputs + d) * channels + c]


def copy_to_taps(weight: Tensor, taps: Tensor) -> None:
    """Copy weight D x C x 3 x 3, with any strides, to taps (9 D) x C, contiguous."""
    outputs, channels = weight.shape[:2]
    sizes = weight.stride(), as_numpy(taps), outputs, channels
    run(_copy_to_taps, outputs, memory_of(weight), *sizes)


def copy_from_taps(taps: Tensor, weight: Tensor) -> None:
    """Copy taps (9 D) x C to weight D x C x 3 x 3, channels of a contiguous weight."""
    outputs, channels = weight.shape[:2]
    source, target = as_numpy(taps.contiguous()), memory_of(weight)
    run(_copy_from_taps, outputs, source, target, weight.stride(0), outputs, channels)
