"""Tile transforms of Winograd's F(4x4, 3x3) (arXiv 1509.09308, section 4.1) with Numba, LANES channels at a time.

A unit of work is a tile: 4 x 4 outputs, computed from 6 x 6 inputs through 36 products.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
from torch import Tensor

from upernet.ops.runtime.matmul import as_numpy
from upernet.ops.runtime.simd import LANES, add, fill, load, multiply_add, rectify, store
from upernet.ops.runtime.threads import in_team, jit, run, take

# The interpolation points are 0, +-P, +-Q and infinity. P Q = 1 leaves fewer and smaller factors than the usual points
# 1 and 2, and a fifth of their rounding errors.
P = 0.5**0.5
Q = 2.0**0.5
SUM = P**2 + Q**2


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


@jit
def _input_transform(counter, x, height, width, channels, top, columns, tiles, values, row, step, first_channel):
    zero = fill(x.dtype.type(0))
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
            for i in range(6):
                _forward_axis(half, 6 * i * LANES, LANES, values, to + 6 * i * step, step)


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
def _output_transform(
    counter, products, out, height, width, channels, top, columns, tiles, accumulate, scale, shift, relu
):
    half = np.empty(24 * LANES, out.dtype)
    result = np.empty(16 * LANES, out.dtype)
    while True:
        tile = take(counter)
        if tile >= tiles:
            return
        y0 = top + 4 * (tile // columns)
        x0 = 4 * (tile % columns)
        for c in range(0, channels, LANES):
            at = 36 * tile * channels + c
            for j in range(6):
                _backward_axis(products, at + j * channels, 6 * channels, half, j * LANES, 6 * LANES)
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


@jit
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


@jit
def _input_team(openmp, threads, args):
    in_team(openmp, threads, _input_transform, args)


@jit
def _output_team(openmp, threads, args):
    in_team(openmp, threads, _output_transform, args)


@jit
def _gradient_team(openmp, threads, args):
    in_team(openmp, threads, _gradient_transform, args)


def memory_of(x: Tensor) -> np.ndarray:
    """Return all numbers from the first of `x` to its last, in the order of memory."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return as_numpy(x.as_strided((last + 1,), (1,)))


def input_transform(x: Tensor, top: int, values: Tensor, first_channel: int) -> None:
    """Transform x H x W x C into channels `first_channel` to `first_channel + C` of values tiles x 36 x K.

    Tiles are in row order, and the first row of tiles computes the outputs at rows `top` to `top + 3` of `x`, which is
    padded with zeros. `values` is bfloat16 or of the dtype of `x`; its channels are contiguous, while tiles and the 36
    may have any stride.
    """
    height, width, channels = x.shape
    row, step = values.stride()[:2]
    source, target = x.numpy().reshape(-1), memory_of(values)
    run(
        _input_transform,
        _input_team,
        values.shape[0],
        *(source, height, width, channels, top, -(-width // 4), values.shape[0], target, row, step, first_channel),
    )


def output_transform(
    products: Tensor, out: Tensor, top: int, accumulate: bool, scale: Tensor, shift: Tensor, relu: bool
) -> None:
    """Transform products tiles x 36 x D into out H x W x D from row `top` on, scaled, shifted, rectified if `relu`.

    With `accumulate`, the values in `out` are added to the result of the convolution first.
    """
    height, width, channels = out.shape
    source, target = products.numpy().reshape(-1), out.numpy().reshape(-1)
    run(
        _output_transform,
        _output_team,
        products.shape[0],
        *(source, target, height, width, channels, top, -(-width // 4), products.shape[0], accumulate),
        *(scale.numpy(), shift.numpy(), relu),
    )


def gradient_transform(grad: Tensor, top: int, values: Tensor) -> None:
    """Apply the adjoint of `output_transform`, without scale and shift: grad H x W x D -> values tiles x 36 x D."""
    height, width, channels = grad.shape
    row, step = values.stride()[:2]
    sizes = (height, width, channels, top, -(-width // 4), values.shape[0])
    source, target = grad.numpy().reshape(-1), memory_of(values)
    run(_gradient_transform, _gradient_team, values.shape[0], source, *sizes, target, row, step)
