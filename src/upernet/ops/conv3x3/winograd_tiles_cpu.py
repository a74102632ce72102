"""Tile transforms of Winograd's convolution (arXiv 1509.09308, section 4.1) with Numba, LANES channels at a time.

A tile is 4 x 4 outputs, computed from 6 x 6 inputs through 36 products, or 6 x 6 outputs, computed from 8 x 8 inputs
through 64 products. `size` is 6 or 8.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from upernet.ops.conv3x3.winograd_axes_cpu import backward_axis, forward_axis, gradient_axis
from upernet.ops.conv3x3.winograd_weights_cpu import TapPanels, tap_panels, transform_panel
from upernet.ops.runtime.matmul import PANEL, ROWS, PackedMatmul, as_numpy, memory_of, multiply_panel
from upernet.ops.runtime.simd import LANES, add, fill, load, multiply, multiply_add, rectify, store, to_floats
from upernet.ops.runtime.threads import jit, kernel, run, take

MIDDLE = 128
"""The uint8 that stands for zero among the transformed inputs of an int8 convolution."""
GROUP_BYTES = 2**19
"""Bytes of the products that are transformed together; they stay in the second cache of most processors."""
UNITS_PER_THREAD = 4
"""Groups of tiles per thread, at least, so that all threads finish at about the same time."""


@kernel
def _input_transform(
    counter, x, height, width, channels, size, top, columns, tiles, values, row, step, first_channel, inverse
):
    zero = fill(x.dtype.type(0))
    middle = fill(x.dtype.type(MIDDLE))
    patch = np.empty(size * size * LANES, x.dtype)
    half = np.empty(size * size * LANES, x.dtype)
    while True:
        tile = take(counter)
        if tile >= tiles:
            return
        y0 = top + (size - 2) * (tile // columns) - 1
        x0 = (size - 2) * (tile % columns) - 1
        inside = min(y0, x0) >= 0 and y0 + size <= height and x0 + size <= width
        for c in range(0, channels, LANES):
            if inside:
                at = (y0 * width + x0) * channels + c
                for j in range(size):
                    forward_axis(size, x, at + j * channels, width * channels, half, j * LANES, size * LANES)
            else:
                for i in range(size):
                    for j in range(size):
                        value = zero
                        if 0 <= y0 + i < height and 0 <= x0 + j < width:
                            value = load(x, ((y0 + i) * width + x0 + j) * channels + c)
                        store(patch, (size * i + j) * LANES, value)
                for j in range(size):
                    forward_axis(size, patch, j * LANES, size * LANES, half, j * LANES, size * LANES)
            to = tile * row + first_channel + c
            if inverse.size == 0:
                for i in range(size):
                    forward_axis(size, half, size * i * LANES, LANES, values, to + size * i * step, step)
            else:
                for i in range(size):
                    forward_axis(size, half, size * i * LANES, LANES, patch, size * i * LANES, LANES)
                for g in range(size * size):
                    factor = fill(inverse[g])
                    store(values, to + g * step, multiply_add(load(patch, g * LANES), factor, middle))


@jit
def _write_outputs(size, products, at, step, y0, x0, c, out, sizes, epilogue, half, result):
    """Transform the products of a tile, LANES channels from `c` on, and write its outputs."""
    height, width, channels = sizes
    accumulate, scale, shift, relu = epilogue
    side = size - 2
    for j in range(size):
        backward_axis(size, products, at + j * step, size * step, half, j * LANES, size * LANES)
    for i in range(side):
        backward_axis(size, half, size * i * LANES, LANES, result, side * i * LANES, LANES)
    factor, offset = load(scale, c), load(shift, c)
    for i in range(min(side, height - y0)):
        for j in range(min(side, width - x0)):
            to = ((y0 + i) * width + x0 + j) * channels + c
            value = load(result, (side * i + j) * LANES)
            if accumulate:
                value = add(value, load(out, to))
            value = multiply_add(value, factor, offset)
            if relu:
                value = rectify(value)
            store(out, to, value)


@jit
def _to_floats(products, numbers, g, group, count, factors, at):
    """Convert the int32 `products` of `count` tiles with panel g to `numbers`, in place."""
    for lane in range(0, PANEL, LANES):
        factor = load(factors, at + lane)
        for tile in range(count):
            to = (g * group + tile) * PANEL + lane
            store(numbers, to, multiply(to_floats(load(products, to)), factor))


@jit
def _write_tiles(size, products, first, count, group, panel, columns, top, out, sizes, epilogue, half, result):
    """Transform the products of `count` tiles from `first` on with one panel of the weight, and write the outputs."""
    for tile in range(first, first + count):
        y0, x0 = top + (size - 2) * (tile // columns), (size - 2) * (tile % columns)
        for lane in range(0, min(PANEL, sizes[2] - panel * PANEL), LANES):
            at, c = (tile - first) * PANEL + lane, panel * PANEL + lane
            _write_outputs(size, products, at, group * PANEL, y0, x0, c, out, sizes, epilogue, half, result)


@kernel
def _multiply_tiles(counter, values, weight, base, factors, depth, group, tiles, columns, top, out, sizes, epilogue):
    """Multiply `group` tiles by one panel of the weight at a time, and transform the products while they are cached."""
    panels, groups = -(-sizes[2] // PANEL), -(-tiles // group)
    products = np.empty(36 * group * PANEL, base.dtype)
    numbers = products.view(out.dtype)
    half, result = np.empty(24 * LANES, out.dtype), np.empty(16 * LANES, out.dtype)
    while True:
        unit = take(counter)
        if unit >= panels * groups:
            return
        panel, first = unit // groups, unit % groups * group
        count = min(group, tiles - first)
        for g in range(36):
            at, a, c = (g * panels + panel) * PANEL, (36 * first + g) * depth, g * group * PANEL
            multiply_panel(
                count, values, a, 36 * depth, 1, weight, at * depth, PANEL, depth, base, at, 0, products, c, PANEL
            )
            if factors.size > 0:
                _to_floats(products, numbers, g, group, count, factors, at)
        _write_tiles(6, numbers, first, count, group, panel, columns, top, out, sizes, epilogue, half, result)


@kernel
def _multiply_taps(
    counter, values, taps, size, channels, ranges, depth, group, tiles, share, columns, top, out, sizes, epilogue
):
    """Do what `_multiply_tiles` does, with panels of taps that are transformed once for each `share` of the tiles."""
    panels, shares = -(-sizes[2] // PANEL), -(-tiles // share)
    square, step = size * size, (depth + 1) * PANEL
    weight, products = np.empty(square * step, taps.dtype), np.empty(square * group * PANEL, taps.dtype)
    base = np.zeros(PANEL, taps.dtype)
    half, result = np.empty(square * LANES, taps.dtype), np.empty(square * LANES, taps.dtype)
    while True:
        unit = take(counter)
        if unit >= panels * shares:
            return
        panel, start = unit // shares, unit % shares * share
        transform_panel(size, taps, panel, channels, ranges, weight, 0, step, half)
        for first in range(start, min(start + share, tiles), group):
            count = min(group, start + share - first, tiles - first)
            for g in range(square):
                a, c = (square * first + g) * depth, g * group * PANEL
                multiply_panel(
                    count, values, a, square * depth, 1, weight, g * step, PANEL, depth, base, 0, 0, products, c, PANEL
                )
            _write_tiles(size, products, first, count, group, panel, columns, top, out, sizes, epilogue, half, result)


@kernel
def _gradient_transform(counter, grad, height, width, channels, top, columns, tiles, values, row, step):
    zero = fill(grad.dtype.type(0))
    patch = np.empty(16 * LANES, grad.dtype)
    half = np.empty(24 * LANES, grad.dtype)
    while True:
        tile = take(counter)
        if tile >= tiles:
            return
        y0 = top + 4 * (tile // columns)
        x0 = 4 * (tile % columns)
        for c in range(0, channels, LANES):
            for i in range(4):
                for j in range(4):
                    value = zero
                    if y0 + i < height and x0 + j < width:
                        value = load(grad, ((y0 + i) * width + x0 + j) * channels + c)
                    store(patch, (4 * i + j) * LANES, value)
            for j in range(4):
                gradient_axis(patch, j * LANES, 4 * LANES, half, j * LANES, 4 * LANES)
            for i in range(6):
                gradient_axis(half, 4 * i * LANES, LANES, values, tile * row + c + 6 * i * step, step)


def input_transform(x: Tensor, top: int, values: Tensor, first_channel: int, inverse: Tensor | None = None) -> None:
    """Transform x H x W x C into channels `first_channel` to `first_channel + C` of `values`.

    Tiles are in row order, and the first row of tiles computes the outputs from row `top` of `x` on, which is padded
    with zeros. `values` is tiles x 36 x K for tiles of 4 x 4 outputs, and tiles x 64 x K for those of 6 x 6. It is
    bfloat16 or of the dtype of `x`; its channels are contiguous, while tiles and the 36 or 64 may have any stride. With
    `inverse`, 36 factors, `values` is uint8: the product with the factor, plus MIDDLE.
    """
    height, width, channels = x.shape
    size = math.isqrt(values.shape[1])
    inverse = x.new_empty(0) if inverse is None else inverse
    row, step = values.stride()[:2]
    source, target = x.numpy().reshape(-1), memory_of(values)
    run(
        _input_transform,
        values.shape[0],
        *(source, height, width, channels, size, top, -(-width // (size - 2)), values.shape[0]),
        *(target, row, step, first_channel),
        inverse.numpy(),
    )


def multiply_tiles(
    values: Tensor,
    weight: PackedMatmul | TapPanels,
    out: Tensor,
    top: int,
    accumulate: bool,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
) -> None:
    """Multiply `values` of `input_transform`, and transform the products into out H x W x D from row `top` on.

    The result is scaled, shifted and rectified if `relu`. With `accumulate`, the values in `out` are added to the
    result of the convolution first.
    """
    height, width, channels = out.shape
    tiles, panels = len(values), -(-channels // PANEL)
    size = math.isqrt(values.shape[1])
    most = GROUP_BYTES // (size * size * PANEL * 4)
    even = tiles * panels // (UNITS_PER_THREAD * torch.get_num_threads())
    group = max(ROWS, min(most, even) // ROWS * ROWS)
    epilogue = (accumulate, scale.numpy(), shift.numpy(), relu)
    if isinstance(weight, TapPanels):
        shares = min(-(-tiles // group), -(-UNITS_PER_THREAD * torch.get_num_threads() // panels))
        share = -(-tiles // shares)
        run(
            _multiply_taps,
            panels * shares,
            *(
                values.numpy().reshape(-1),
                weight.panels.numpy().reshape(-1),
                size,
                weight.panels.shape[2],
                weight.ranges,
            ),
            *(weight.depth, group, tiles, share, -(-width // (size - 2)), top),
            *(out.numpy().reshape(-1), (height, width, channels), epilogue),
        )
        return
    left, right = (as_numpy(each, weight.pair) for each in (values, weight.panels))
    base, factors = as_numpy(weight.base), as_numpy(weight.factors)
    depth = weight.depth // weight.pair
    run(
        _multiply_tiles,
        panels * -(-tiles // group),
        *(left, right, base, factors, depth, group, tiles, -(-width // 4), top),
        *(out.numpy().reshape(-1), (height, width, channels), epilogue),
    )


def gradient_transform(grad: Tensor, top: int, values: Tensor) -> None:
    """Apply the adjoint of the transform of products to outputs: grad H x W x D -> values tiles x 36 x D."""
    height, width, channels = grad.shape
    row, step = values.stride()[:2]
    sizes = (height, width, channels, top, -(-width // 4), values.shape[0])
    source, target = grad.numpy().reshape(-1), memory_of(values)
    run(_gradient_transform, values.shape[0], source, *sizes, target, row, step)


def warm_up() -> None:
    """Compile the kernel that multiplies float32, or load it from Numba's cache, and run it on a tile."""
    weight = tap_panels(torch.zeros(PANEL, 1, 3, 3, dtype=torch.float32))
    values, one = torch.zeros(1, 36, 1, dtype=torch.float32), torch.zeros(PANEL, dtype=torch.float32)
    multiply_tiles(values, weight, torch.zeros(4, 4, PANEL, dtype=torch.float32), 0, False, one, one, True)
