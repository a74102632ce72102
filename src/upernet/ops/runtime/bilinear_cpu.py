"""Bilinear upsampling on a CPU with Numba, optionally added to a scaled, shifted and rectified map."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
from torch import Tensor

from upernet.ops.runtime.bilinear import axis
from upernet.ops.runtime.simd import LANES, add, fill, load, multiply_add, rectify, store
from upernet.ops.runtime.threads import kernel, run, take


@kernel
def _upsample(
    counter, x, coarse_width, out, rows, first_row, width, channels, base, based, scale, shift, y_axis, x_axis
):
    y_below, y_above, y_part = y_axis
    x_below, x_above, x_part = x_axis
    one = x_part.dtype.type(1)
    zero = fill(x_part.dtype.type(0))
    while True:
        r = take(counter)
        if r >= rows:
            return
        y = first_row + r
        q = y_part[y]
        upper, lower = y_below[y] * coarse_width, y_above[y] * coarse_width
        for column in range(width):
            s = x_part[column]
            a, b = fill((one - q) * (one - s)), fill((one - q) * s)
            d, e = fill(q * (one - s)), fill(q * s)
            i0, i1 = (upper + x_below[column]) * channels, (upper + x_above[column]) * channels
            i2, i3 = (lower + x_below[column]) * channels, (lower + x_above[column]) * channels
            to = (r * width + column) * channels
            for c in range(0, channels, LANES):
                above = multiply_add(b, load(x, i1 + c), multiply_add(a, load(x, i0 + c), zero))
                value = multiply_add(e, load(x, i3 + c), multiply_add(d, load(x, i2 + c), above))
                if based:
                    value = add(value, rectify(multiply_add(load(base, to + c), load(scale, c), load(shift, c))))
                store(out, to + c, value)


def flat(x: Tensor) -> np.ndarray:
    """Return the values of a contiguous CPU tensor as a one-dimensional array that shares its memory."""
    return x.numpy().reshape(-1)


def upsample(x: Tensor, height: int, first_row: int, out: Tensor) -> None:
    """Upsample x h x w x C to `height` rows, of which `out` R x W x C receives `first_row` to `first_row + R`."""
    nothing = x.new_empty(0)
    add_upsampled(nothing, nothing, nothing, x, height, first_row, out)


def add_upsampled(
    base: Tensor, scale: Tensor, shift: Tensor, x: Tensor, height: int, first_row: int, out: Tensor
) -> None:
    """Upsample like `upsample`, and add relu(base * scale + shift): base R x W x C or empty, scale and shift C."""
    rows, width, channels = out.shape
    sizes = (rows, first_row, width, channels)
    added = (flat(base), base.numel() > 0, scale.numpy(), shift.numpy())
    axes = (tuple(axis(x.shape[0], height, x.dtype)), tuple(axis(x.shape[1], width, x.dtype)))
    run(_upsample, rows, flat(x), x.shape[1], flat(out), *sizes, *added, *axes)
