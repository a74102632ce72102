"""Upsampling and shifted adding of tap maps, and its adjoint, for Numba: separable, LANES channels at a time.

A tap map h x w x 3 x 3 x D holds, for each pixel of a coarse map, its products with the nine taps of a 3x3 kernel. Fine
pixel i takes tap t from position p = i + t - 1 of the fine grid, if that is inside the map. Along an axis, position p
reads coarse pixels `below[p]` and `above[p]` with weights `1 - part[p]` and `part[p]`.

(A coarse pixel that is infinite or NaN may reach results that only come near it.)
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from upernet.ops.lanes import LANES, add, fill, load, multiply_add, store
from upernet.ops.threads import in_team, jit, run, take
from upernet.ops.winograd_numba import rectify


class Axis(NamedTuple):
    """Bilinear interpolation along one axis, pixel centres at half integers (`align_corners=False`)."""

    below: np.ndarray
    above: np.ndarray
    part: np.ndarray


@lru_cache(maxsize=256)
def axis(coarse: int, fine: int, dtype: torch.dtype) -> Axis:
    """Where each position of a grid of `fine` pixels lies on one of `coarse`."""
    place = np.maximum((np.arange(fine) + 0.5) * (coarse / fine) - 0.5, 0)
    below = np.minimum(place.astype(np.int64), coarse - 1)
    part = (place - below).astype(np.float32 if dtype == torch.float32 else np.float64)
    return Axis(below, np.minimum(below + 1, coarse - 1), part)


@jit
def _taps_at(i, size, part):
    """Fine positions i - 1, i, i + 1, moved into the grid, and their two weights each, 0 where they were outside."""
    one = type(part[0])(1)
    zero = type(part[0])(0)
    before, after = max(i - 1, 0), min(i + 1, size - 1)
    first, last = one if i > 0 else zero, one if i + 1 < size else zero
    p0, p1, p2 = part[before], part[i], part[after]
    return before, after, first * (one - p0), first * p0, one - p1, p1, last * (one - p2), last * p2


@jit
def _six(source, at, weights, c):
    a, b, d, e, f, g = weights
    total = multiply_add(
        b, load(source, at[1] + c), multiply_add(a, load(source, at[0] + c), fill(source.dtype.type(0)))
    )
    total = multiply_add(e, load(source, at[3] + c), multiply_add(d, load(source, at[2] + c), total))
    return multiply_add(g, load(source, at[5] + c), multiply_add(f, load(source, at[4] + c), total))


@jit
def _widen(counter, taps, coarse_width, rows, ring, places, first_row, width, channels, below, above, part):
    while True:
        unit = take(counter)
        if unit >= 3 * rows:
            return
        r, ty = unit // 3, unit % 3
        to = ((first_row + r) % places * 3 + ty) * width * channels
        for x in range(width):
            left, right, a, b, d, e, f, g = _taps_at(x, width, part)
            weights = (fill(a), fill(b), fill(d), fill(e), fill(f), fill(g))
            row = r * coarse_width
            at = (
                ((row + below[left]) * 9 + 3 * ty) * channels,
                ((row + above[left]) * 9 + 3 * ty) * channels,
                ((row + below[x]) * 9 + 3 * ty + 1) * channels,
                ((row + above[x]) * 9 + 3 * ty + 1) * channels,
                ((row + below[right]) * 9 + 3 * ty + 2) * channels,
                ((row + above[right]) * 9 + 3 * ty + 2) * channels,
            )
            for c in range(0, channels, LANES):
                store(ring, to + c, _six(taps, at, weights, c))
            to += channels


@jit
def _heighten(counter, ring, places, out, rows, first_row, height, row_size, onto, below, above, part):
    one = fill(part.dtype.type(1))
    while True:
        r = take(counter)
        if r >= rows:
            return
        y = first_row + r
        up, down, a, b, d, e, f, g = _taps_at(y, height, part)
        weights = (fill(a), fill(b), fill(d), fill(e), fill(f), fill(g))
        at = (
            (below[up] % places * 3) * row_size,
            (above[up] % places * 3) * row_size,
            (below[y] % places * 3 + 1) * row_size,
            (above[y] % places * 3 + 1) * row_size,
            (below[down] % places * 3 + 2) * row_size,
            (above[down] % places * 3 + 2) * row_size,
        )
        if onto:
            for c in range(0, row_size, LANES):
                to = y * row_size + c
                store(out, to, multiply_add(one, load(out, to), _six(ring, at, weights, c)))
        else:
            for c in range(0, row_size, LANES):
                store(out, y * row_size + c, _six(ring, at, weights, c))


@jit
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


@jit
def _flatten_gradient(counter, grad, images, height, row_size, rows, coarse, below, above, part):
    one = part.dtype.type(1)
    zero = fill(part.dtype.type(0))
    while True:
        unit = take(counter)
        if unit >= 3 * images * coarse:
            return
        ty, r, image = unit % 3, unit // 3 % coarse, unit // 3 // coarse
        to = unit * row_size
        for c in range(0, row_size, LANES):
            store(rows, to + c, zero)
        for p in range(max(0, ty - 1), min(height, height + ty - 1)):
            weight = type(part[p])(0)
            if below[p] == r:
                weight += one - part[p]
            if above[p] == r:
                weight += part[p]
            if weight != 0:
                factor = fill(weight)
                at = (image * height + p - ty + 1) * row_size
                for c in range(0, row_size, LANES):
                    store(rows, to + c, multiply_add(factor, load(grad, at + c), load(rows, to + c)))


@jit
def _narrow_gradient(counter, rows, count, width, channels, taps, coarse, below, above, part):
    one = part.dtype.type(1)
    zero = fill(part.dtype.type(0))
    while True:
        unit = take(counter)
        if unit >= count:
            return
        ty, row = unit % 3, unit // 3
        for pixel in range(row * coarse, (row + 1) * coarse):
            for c in range((pixel * 9 + 3 * ty) * channels, (pixel * 9 + 3 * ty + 3) * channels, LANES):
                store(taps, c, zero)
        for p in range(width):
            for tx in range(max(0, p + 2 - width), min(3, p + 2)):
                at = (unit * width + p - tx + 1) * channels
                low = ((row * coarse + below[p]) * 9 + 3 * ty + tx) * channels
                high = ((row * coarse + above[p]) * 9 + 3 * ty + tx) * channels
                for_low, for_high = fill(one - part[p]), fill(part[p])
                for c in range(0, channels, LANES):
                    value = load(rows, at + c)
                    store(taps, low + c, multiply_add(for_low, value, load(taps, low + c)))
                    store(taps, high + c, multiply_add(for_high, value, load(taps, high + c)))


@jit
def _widen_team(openmp, threads, args):
    in_team(openmp, threads, _widen, args)


@jit
def _heighten_team(openmp, threads, args):
    in_team(openmp, threads, _heighten, args)


@jit
def _upsample_team(openmp, threads, args):
    in_team(openmp, threads, _upsample, args)


@jit
def _flatten_gradient_team(openmp, threads, args):
    in_team(openmp, threads, _flatten_gradient, args)


@jit
def _narrow_gradient_team(openmp, threads, args):
    in_team(openmp, threads, _narrow_gradient, args)


def _flat(x: Tensor) -> np.ndarray:
    return x.numpy().reshape(-1)


def widen(taps: Tensor, ring: Tensor, first_row: int) -> None:
    """Along x: row r of taps R x w x (9 D) -> place `(first_row + r) % S` of ring S x 3 x W x D."""
    rows, coarse_width = taps.shape[:2]
    places, _, width, channels = ring.shape
    x_axis = axis(coarse_width, width, taps.dtype)
    sizes = (places, first_row, width, channels)
    run(_widen, _widen_team, 3 * rows, _flat(taps), coarse_width, rows, _flat(ring), *sizes, *x_axis)


def heighten(ring: Tensor, coarse_height: int, out: Tensor, first_row: int, rows: int, onto: bool) -> None:
    """Along y: ring S x 3 x W x D -> rows `first_row` to `first_row + rows` of out H x W x D, onto it if `onto`."""
    height, width, channels = out.shape
    y_axis = axis(coarse_height, height, out.dtype)
    sizes = (rows, first_row, height, width * channels, onto)
    run(_heighten, _heighten_team, rows, _flat(ring), ring.shape[0], _flat(out), *sizes, *y_axis)


def upsample(x: Tensor, height: int, first_row: int, out: Tensor) -> None:
    """Bilinear: x h x w x C -> out R x W x C, rows `first_row` to `first_row + R` of a map of `height` rows."""
    nothing = x.new_empty(0)
    add_upsampled(nothing, nothing, nothing, x, height, first_row, out)


def add_upsampled(
    base: Tensor, scale: Tensor, shift: Tensor, x: Tensor, height: int, first_row: int, out: Tensor
) -> None:
    """`upsample`, and relu(base * scale + shift) added, unless it is empty: base R x W x C, scale and shift C."""
    rows, width, channels = out.shape
    sizes = (rows, first_row, width, channels)
    added = (_flat(base), base.numel() > 0, scale.numpy(), shift.numpy())
    axes = (tuple(axis(x.shape[0], height, x.dtype)), tuple(axis(x.shape[1], width, x.dtype)))
    run(_upsample, _upsample_team, rows, _flat(x), x.shape[1], _flat(out), *sizes, *added, *axes)


def upsample_taps(products: Sequence[Tensor], height: int, width: int) -> Tensor:
    """As `upernet.ops.fusion.upsample_taps`."""
    images, _, _, channels = products[0].shape
    out = products[0].new_empty(images, height, width, channels // 9)
    for k, product in enumerate(products):
        product = product.detach().contiguous()
        ring = product.new_empty(product.shape[1], 3, width, channels // 9)
        for image in range(images):
            widen(product[image], ring, 0)
            heighten(ring, product.shape[1], out[image], 0, height, onto=k > 0)
    return out


def upsample_taps_gradient(grad: Tensor, coarse_height: int, coarse_width: int) -> Tensor:
    """Its adjoint: grad N x H x W x D -> N x h x w x (9 D)."""
    grad = grad.detach().contiguous()
    images, height, width, channels = grad.shape
    rows = grad.new_empty(images, coarse_height, 3, width, channels)
    y_axis, x_axis = axis(coarse_height, height, grad.dtype), axis(coarse_width, width, grad.dtype)
    count = 3 * images * coarse_height
    sizes = (images, height, width * channels)
    run(_flatten_gradient, _flatten_gradient_team, count, _flat(grad), *sizes, _flat(rows), coarse_height, *y_axis)
    taps = grad.new_empty(images, coarse_height, coarse_width, 9 * channels)
    sizes = (count, width, channels)
    run(_narrow_gradient, _narrow_gradient_team, count, _flat(rows), *sizes, _flat(taps), coarse_width, *x_axis)
    return taps
