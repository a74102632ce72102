"""Tile transforms of Winograd's F(4x4, 3x3) (arXiv 1509.09308, section 4.1) with Numba, LANES channels at a time.

A unit of work is a tile: 4 x 4 outputs, computed from 6 x 6 inputs through 36 products.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.matmul import PANEL, ROWS, PackedMatmul, as_numpy, multiply_panel
from upernet.ops.runtime.simd import LANES, add, fill, load, multiply, multiply_add, rectify, store, to_floats
from upernet.ops.runtime.threads import jit, kernel, run, take

# The interpolation points are 0, +-P, +-Q and infinity. P Q = 1 leaves fewer and smaller factors than the usual points
# 1 and 2, and a fifth of their rounding errors.
P = 0.5**0.5
Q = 2.0**0.5
SUM = P**2 + Q**2
MIDDLE = 128
"""The uint8 that stands for zero among the transformed inputs of an int8 convolution."""
GROUP_BYTES = 2**19
"""Bytes of the products that are transformed together; they stay in the second cache of most processors."""
UNITS_PER_THREAD = 4
"""Groups of tiles per thread, at least, so that all threads finish at about the same time."""


@jit
def _forward_axis(source, at, step, target, to, to_step):
    """Transform the six inputs of a row or column of a tile."""
    kind = source.dtype.type
    p, q = fill(kind(P)), fill(kind(Q))
    minus_p, minus_q = fill(kind(-P)), fill(kind(-Q))
    minus_pp, minus_qq = fill(kind(-P * P)), fill(kind(-Q * Q))
    minus_sum, minus = fill(kind(-SUM)), fill(kind(-1))
    d0, d1, d2 = load(source, at), load(source, at + step), load(source, at + 2 * step)
    d3, d4, d5 = load(source, at + 3 * step), load(source, at + 4 * step), load(source, at + 5 * step)
    even, odd = multiply_add(minus_qq, d2, d4), multiply_add(minus_q, d1, multiply_add(p, d3, fill(kind(0))))
    store(target, to, multiply_add(minus_sum, d2, add(d0, d4)))
    store(target, to + to_step, add(even, odd))
    store(target, to + 2 * to_step, multiply_add(minus, odd, even))
    even, odd = multiply_add(minus_pp, d2, d4), multiply_add(minus_p, d1, multiply_add(q, d3, fill(kind(0))))
    store(target, to + 3 * to_step, add(even, odd))
    store(target, to + 4 * to_step, multiply_add(minus, odd, even))
    store(target, to + 5 * to_step, multiply_add(minus_sum, d3, add(d1, d5)))


@kernel
def _input_transform(
    counter, x, height, width, channels, top, columns, tiles, values, row, step, first_channel, inverse
):
    zero = fill(x.dtype.type(0))
    middle = fill(x.dtype.type(MIDDLE))
    patch = np.empty(36 * LANES, x.dtype)
    half = np.empty(36 * LANES, x.dtype)
    while True:
        tile = take(counter)
        if tile >= tiles:
            return
        y0 = top + 4 * (tile // columns) - 1
        x0 = 4 * (tile % columns) - 1
        inside = min(y0, x0) >= 0 and y0 + 6 <= height and x0 + 6 <= width
        for c in range(0, channels, LANES):
            if inside:
                at = (y0 * width + x0) * channels + c
                for j in range(6):
                    _forward_axis(x, at + j * channels, width * channels, half, j * LANES, 6 * LANES)
            else:
                for i in range(6):
                    for j in range(6):
                        value = zero
                        if 0 <= y0 + i < height and 0 <= x0 + j < width:
                            value = load(x, ((y0 + i) * width + x0 + j) * channels + c)
                        store(patch, (6 * i + j) * LANES, value)
                for j in range(6):
                    _forward_axis(patch, j * LANES, 6 * LANES, half, j * LANES, 6 * LANES)
            to = tile * row + first_channel + c
            if inverse.size == 0:
                for i in range(6):
                    _forward_axis(half, 6 * i * LANES, LANES, values, to + 6 * i * step, step)
            else:
                for i in range(6):
                    _forward_axis(half, 6 * i * LANES, LANES, patch, 6 * i * LANES, LANES)
                for g in range(36):
                    factor = fill(inverse[g])
                    store(values, to + g * step, multiply_add(load(patch, g * LANES), factor, middle))


@jit
def _backward_axis(source, at, step, target, to, to_step):
    """Transform the six products of a row or column of a tile to four outputs."""
    kind = target.dtype.type
    p, q, pp, qq = fill(kind(P)), fill(kind(Q)), fill(kind(P**2)), fill(kind(Q**2))
    ppp, qqq, minus, zero = fill(kind(P**3)), fill(kind(Q**3)), fill(kind(-1)), fill(kind(0))
    m1, m2 = load(source, at + step), load(source, at + 2 * step)
    m3, m4 = load(source, at + 3 * step), load(source, at + 4 * step)
    even_p, odd_p, even_q, odd_q = add(m1, m2), multiply_add(minus, m2, m1), add(m3, m4), multiply_add(minus, m4, m3)
    store(target, to, add(load(source, at), add(even_p, even_q)))
    store(target, to + to_step, multiply_add(p, odd_p, multiply_add(q, odd_q, zero)))
    store(target, to + 2 * to_step, multiply_add(pp, even_p, multiply_add(qq, even_q, zero)))
    last = multiply_add(qqq, odd_q, load(source, at + 5 * step))
    store(target, to + 3 * to_step, multiply_add(ppp, odd_p, last))


@jit
def _write_outputs(products, at, step, y0, x0, c, out, sizes, epilogue, half, result):
    """Transform 36 products of a tile, LANES channels from `c` on, and write its outputs."""
    height, width, channels = sizes
    accumulate, scale, shift, relu = epilogue
    for j in range(6):
        _backward_axis(products, at + j * step, 6 * step, half, j * LANES, 6 * LANES)
    for i in range(4):
        _backward_axis(half, 6 * i * LANES, LANES, result, 4 * i * LANES, LANES)
    factor, offset = load(scale, c), load(shift, c)
    for i in range(min(4, height - y0)):
        for j in range(min(4, width - x0)):
            to = ((y0 + i) * width + x0 + j) * channels + c
            value = load(result, (4 * i + j) * LANES)
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


@kernel
def _multiply_tiles(counter, values, weight, base, factors, depth, group, tiles, columns, top, out, sizes, epilogue):
    """Multiply `group` tiles by one panel of the weight at a time, and transform the products while they are cached."""
    channels = sizes[2]
    panels, groups = -(-channels // PANEL), -(-tiles // group)
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
        for tile in range(first, first + count):
            y0, x0 = top + 4 * (tile // columns), 4 * (tile % columns)
            for lane in range(0, min(PANEL, channels - panel * PANEL), LANES):
                at, c = (tile - first) * PANEL + lane, panel * PANEL + lane
                _write_outputs(numbers, at, group * PANEL, y0, x0, c, out, sizes, epilogue, half, result)


@jit
def _gradient_axis(source, at, step, target, to, to_step):
    """Apply the adjoint of `_backward_axis`: from the gradients of four outputs to those of six products."""
    kind = target.dtype.type
    p, q, pp, qq = fill(kind(P)), fill(kind(Q)), fill(kind(P**2)), fill(kind(Q**2))
    ppp, qqq, minus, zero = fill(kind(P**3)), fill(kind(Q**3)), fill(kind(-1)), fill(kind(0))
    g0, g1, g2, g3 = load(source, at), load(source, at + step), load(source, at + 2 * step), load(source, at + 3 * step)
    even, odd = multiply_add(pp, g2, g0), multiply_add(ppp, g3, multiply_add(p, g1, zero))
    store(target, to, g0)
    store(target, to + to_step, add(even, odd))
    store(target, to + 2 * to_step, multiply_add(minus, odd, even))
    even, odd = multiply_add(qq, g2, g0), multiply_add(qqq, g3, multiply_add(q, g1, zero))
    store(target, to + 3 * to_step, add(even, odd))
    store(target, to + 4 * to_step, multiply_add(minus, odd, even))
    store(target, to + 5 * to_step, g3)


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
                _gradient_axis(patch, j * LANES, 4 * LANES, half, j * LANES, 4 * LANES)
            for i in range(6):
                _gradient_axis(half, 4 * i * LANES, LANES, values, tile * row + c + 6 * i * step, step)


def memory_of(x: Tensor) -> np.ndarray:
    """Return all numbers from the first of `x` to its last, in the order of memory."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return as_numpy(x.as_strided((last + 1,), (1,)))


def input_transform(x: Tensor, top: int, values: Tensor, first_channel: int, inverse: Tensor | None = None) -> None:
    """Transform x H x W x C into channels `first_channel` to `first_channel + C` of values tiles x 36 x K.

    Tiles are in row order, and the first row of tiles computes the outputs at rows `top` to `top + 3` of `x`, which is
    padded with zeros. `values` is bfloat16 or of the dtype of `x`; its channels are contiguous, while tiles and the 36
    may have any stride. With `inverse`, 36 factors, `values` is uint8: the product with the factor, plus MIDDLE.
    """
    height, width, channels = x.shape
    inverse = x.new_empty(0) if inverse is None else inverse
    row, step = values.stride()[:2]
    source, target = x.numpy().reshape(-1), memory_of(values)
    run(
        _input_transform,
        values.shape[0],
        *(source, height, width, channels, top, -(-width // 4), values.shape[0], target, row, step, first_channel),
        inverse.numpy(),
    )


def multiply_tiles(
    values: Tensor,
    weight: PackedMatmul,
    out: Tensor,
    top: int,
    accumulate: bool,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
) -> None:
    """Multiply values tiles x 36 x K, and transform the products into out H x W x D from row `top` on.

    The result is scaled, shifted and rectified if `relu`. With `accumulate`, the values in `out` are added to the
    result of the convolution first.
    """
    height, width, channels = out.shape
    tiles, panels = len(values), -(-channels // PANEL)
    most = GROUP_BYTES // (36 * PANEL * weight.result_dtype.itemsize)
    even = tiles * panels // (UNITS_PER_THREAD * torch.get_num_threads())
    group = max(ROWS, min(most, even) // ROWS * ROWS)
    left, right = (as_numpy(each, weight.pair) for each in (values, weight.panels))
    base, factors = as_numpy(weight.base), as_numpy(weight.factors)
    depth, epilogue = weight.depth // weight.pair, (accumulate, scale.numpy(), shift.numpy(), relu)
    run(
        _multiply_tiles,
        panels * -(-tiles // group),
        *(left, right, base, factors, depth, group, tiles, -(-width // 4), top),
        *(out.numpy().reshape(-1), (height, width, channels), epilogue),
    )


def gradient_transform(grad: Tensor, top: int, values: Tensor) -> None:
    """Apply the adjoint of `output_transform`, without scale and shift: grad H x W x D -> values tiles x 36 x D."""
    height, width, channels = grad.shape
    row, step = values.stride()[:2]
    sizes = (height, width, channels, top, -(-width // 4), values.shape[0])
    source, target = grad.numpy().reshape(-1), memory_of(values)
    run(_gradient_transform, values.shape[0], source, *sizes, target, row, step)


def warm_up() -> None:
    """Compile the kernel that multiplies, or load it from Numba's cache, and run it on a tile."""
    weight = PackedMatmul(torch.zeros(36, PANEL, 1, dtype=torch.float32))
    values, one = torch.zeros(1, 36, 1, dtype=torch.float32), torch.zeros(PANEL, dtype=torch.float32)
    multiply_tiles(values, weight, torch.zeros(4, 4, PANEL, dtype=torch.float32), 0, False, one, one, True)
