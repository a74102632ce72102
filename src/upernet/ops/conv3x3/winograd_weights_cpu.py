"""Weight transform of Winograd's F(4x4, 3x3) (arXiv 1509.09308, section 4.1) and its adjoint, with Numba."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
from torch import Tensor

from upernet.ops.conv3x3.winograd_tiles_cpu import P, Q, memory_of
from upernet.ops.runtime.simd import LANES, fill, load, multiply_add, store
from upernet.ops.runtime.threads import jit, kernel, run, take

ROWS_PER_UNIT = 64
"""Input channels of a weight that one thread transforms before it fetches the next unit."""


def _at_points() -> np.ndarray:
    """Return the 6 x 3 matrix from taps to values at the six points, divided by the divisors of the interpolation."""
    rows = [
        [x**power / (2 * x**2 * (x**2 - other**2)) for power in range(3)]
        for point, other in ((P, Q), (Q, P))
        for x in (point, -point)
    ]
    return np.array([[1.0, 0.0, 0.0], *rows, [0.0, 0.0, 1.0]])


AT_POINTS = _at_points()


@kernel
def _kernel_transform(counter, weight, first, strides, outputs, channels, transform, panels, width, depth, first_row):
    """Transform weight D x C x 3 x 3, with any strides, to panels 36 x P x depth x width, from row `first_row` on."""
    by_output, by_channel, by_row, by_column = strides
    count = -(-outputs // width)
    taps = np.zeros((3, 3, width), np.float64)
    half = np.empty((6, 3, width), np.float64)
    while True:
        unit = take(counter)
        if unit >= count * -(-channels // ROWS_PER_UNIT):
            return
        panel, start = unit % count, unit // count * ROWS_PER_UNIT
        valid = min(width, outputs - panel * width)
        for c in range(start, min(start + ROWS_PER_UNIT, channels)):
            at = first + panel * width * by_output + c * by_channel
            for lane in range(valid):
                for i in range(3):
                    for j in range(3):
                        taps[i, j, lane] = weight[at + lane * by_output + i * by_row + j * by_column]
            for i in range(6):
                for j in range(3):
                    for lane in range(width):
                        half[i, j, lane] = (
                            transform[i, 0] * taps[0, j, lane]
                            + transform[i, 1] * taps[1, j, lane]
                            + transform[i, 2] * taps[2, j, lane]
                        )
            for i in range(6):
                for j in range(6):
                    to = (((6 * i + j) * count + panel) * depth + first_row + c) * width
                    for lane in range(width):
                        panels[to + lane] = (
                            transform[j, 0] * half[i, 0, lane]
                            + transform[j, 1] * half[i, 1, lane]
                            + transform[j, 2] * half[i, 2, lane]
                        )


@jit
def _kernel_axis(source, at, step, target, to, to_step, factors):
    """Apply the adjoint with factors 6 x 3: from the six values of a row or column to three taps."""
    for tap in range(3):
        value = fill(target.dtype.type(0))
        for point in range(6):
            value = multiply_add(fill(factors[point, tap]), load(source, at + point * step), value)
        store(target, to + tap * to_step, value)


@kernel
def _kernel_gradient(counter, products, outputs, depth, factors, out, channels):
    half = np.empty(18 * LANES, out.dtype)
    taps = np.empty(9 * LANES, out.dtype)
    while True:
        d = take(counter)
        if d >= outputs:
            return
        for c in range(0, channels, LANES):
            at, step = d * depth + c, outputs * depth
            for j in range(6):
                _kernel_axis(products, at + j * step, 6 * step, half, j * LANES, 6 * LANES, factors)
            for i in range(3):
                _kernel_axis(half, 6 * i * LANES, LANES, taps, 3 * i * LANES, LANES, factors)
            to = (d * channels + c) * 9
            for lane in range(LANES):
                for tap in range(9):
                    out[to + 9 * lane + tap] = taps[tap * LANES + lane]


def kernel_transform(weight: Tensor, adjoint: bool, panels: Tensor, first_row: int) -> None:
    """Transform weight D x C x 3 x 3, in float64, to rows `first_row` to `first_row + C` of panels 36 x P x K x PANEL.

    With `adjoint`, this transforms the kernel that carries gradients back: rotated by 180 degrees, with C outputs and D
    inputs.
    """
    by_output, by_channel, by_row, by_column = weight.stride()
    outputs, channels = weight.shape[:2]
    first = 0
    if adjoint:
        outputs, channels, by_output, by_channel = channels, outputs, by_channel, by_output
        first, by_row, by_column = 2 * (by_row + by_column), -by_row, -by_column
    strides = (by_output, by_channel, by_row, by_column)
    _, count, depth, width = panels.shape
    units = count * -(-channels // ROWS_PER_UNIT)
    target = (panels.numpy().reshape(-1), width, depth, first_row)
    run(_kernel_transform, units, memory_of(weight), first, strides, outputs, channels, AT_POINTS, *target)


def kernel_gradient(products: Tensor, out: Tensor) -> None:
    """Apply the adjoint of `kernel_transform`: products 36 x D x K, K at least C -> out D x C x 3 x 3."""
    outputs, channels = out.shape[:2]
    target = out.numpy().reshape(-1)
    factors = AT_POINTS.astype(target.dtype)
    sizes = (outputs, products.shape[2], factors, target, channels)
    run(_kernel_gradient, outputs, products.numpy().reshape(-1), *sizes)
