"""Linear layers on a CPU with Numba, together with what comes before and after them in a network.

A thread takes a block of rows, normalizes it, rounds it to the dtype of the product, multiplies it by all panels of the
weight, converts the sums to float32, and normalizes, scales and adds what follows. Nothing in between leaves the
thread's cache, not even the hidden layer of a multilayer perceptron.

Arguments of the kernels that are tuples:

* layer: words per row, panels, base and factors (see `PackedMatmul`), bias, and how inputs are rounded: what they are
  multiplied by, and what is added.
* norm: weight and bias of a layer norm, both empty for none, and its epsilon.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from upernet.ops.dcnv3.cpu import locate, sample
from upernet.ops.runtime.matmul import PANEL, PackedMatmul, as_numpy, multiply_panel
from upernet.ops.runtime.simd import (
    LANES,
    add,
    divide,
    exp,
    fill,
    load,
    maximum,
    multiply,
    multiply_add,
    rectify,
    store,
    to_floats,
    total,
)
from upernet.ops.runtime.threads import in_team, jit, run, take
from upernet.ops.softmax.cpu import softmax_of_runs

ROWS_PER_UNIT = 64
"""Rows of a block."""

# The error function for x >= 0 (Abramowitz and Stegun, 7.1.26): 1 - (a polynomial in t) e^(-x^2), t = 1 / (1 + P x),
# with an error of at most 1.5e-7.
P = np.float32(0.3275911 * 0.5**0.5)
TERMS = tuple(np.float32(0.5 * a) for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))


@jit
def _gelu(x):
    """Return x times the normal distribution function of x, per lane."""
    one, minus = fill(np.float32(1)), fill(np.float32(-1))
    size = maximum(x, multiply(x, minus))
    t = divide(one, multiply_add(fill(P), size, one))
    polynomial = fill(TERMS[0])
    for a in TERMS[1:]:
        polynomial = multiply_add(polynomial, t, fill(a))
    tail = multiply(multiply(polynomial, t), exp(multiply(multiply(x, x), fill(np.float32(-0.5)))))
    return multiply_add(multiply(size, tail), minus, rectify(x))


@jit
def _normalize_rows(x, at, count, width, norm, target):
    """Write the layer norm of `count` rows of x from `at` on to `target`; `width` is a multiple of LANES."""
    weight, bias, epsilon = norm
    for r in range(count):
        first, to = at + r * width, r * width
        sums = fill(np.float32(0))
        for c in range(0, width, LANES):
            sums = add(sums, load(x, first + c))
        minus_mean = -total(sums) / np.float32(width)
        shift, sums = fill(minus_mean), fill(np.float32(0))
        for c in range(0, width, LANES):
            deviation = add(load(x, first + c), shift)
            sums = multiply_add(deviation, deviation, sums)
        factor = fill(np.float32(1) / np.sqrt(total(sums) / np.float32(width) + epsilon))
        for c in range(0, width, LANES):
            deviation = multiply(add(load(x, first + c), shift), factor)
            store(target, to + c, multiply_add(deviation, load(weight, c), load(bias, c)))


@jit
def _round_rows(x, at, count, inputs, length, inverse, zero, rows, edge):
    """Write `count` rows of x from `at` on to rows of `length` numbers, rounded; `edge` has room for LANES."""
    factor, offset = fill(inverse), fill(zero)
    whole = inputs // LANES * LANES
    for r in range(count):
        first, to = at + r * inputs, length * r
        for k in range(0, whole, LANES):
            store(rows, to + k, multiply_add(load(x, first + k), factor, offset))
        if whole < inputs:
            for k in range(inputs - whole):
                edge[k] = x[first + whole + k]
            # This writes beyond the row. Its padding meets weights of zero, and the next row comes later.
            store(rows, to + whole, multiply_add(load(edge, 0), factor, offset))


@jit
def _multiply_rows(words, count, layer, outputs, sums, edge, out, to):
    """Multiply `count` rounded rows by a layer, and write float32 rows to `out` from `to` on."""
    depth, weight, base, factors, bias, _, _ = layer
    for at in range(0, outputs, PANEL):
        multiply_panel(count, words, 0, depth, 1, weight, at * depth, PANEL, depth, base, at, 0, sums, 0, PANEL)
        whole = at + PANEL <= outputs
        for r in range(count):
            target, t = (out, to + r * outputs + at) if whole else (edge, 0)
            for lane in range(0, PANEL, LANES):
                value = to_floats(load(sums, r * PANEL + lane))
                store(target, t + lane, multiply_add(value, load(factors, at + lane), load(bias, at + lane)))
            if not whole:
                for lane in range(outputs - at):
                    out[to + r * outputs + at + lane] = edge[lane]


@jit
def _add_rows(rows, count, outputs, norm, factors, others, at, out, to):
    """Normalize rows, multiply them by factors, and write the sums with rows of `others` from `at` on."""
    if norm[0].size > 0:
        _normalize_rows(rows, 0, count, outputs, norm, rows)
    for r in range(count):
        for c in range(0, outputs, LANES):
            value = load(rows, r * outputs + c)
            if factors.size > 0:
                value = multiply(value, load(factors, c))
            store(out, to + r * outputs + c, add(value, load(others, at + r * outputs + c)))


@jit
def _linear(counter, x, out, rows, inputs, outputs, layer, norm, kept, rounded_to):
    depth, weight, base, inverse, zero = layer[0], layer[1], layer[2], layer[5], layer[6]
    normalized = np.empty(ROWS_PER_UNIT * inputs if norm[0].size > 0 else 0, np.float32)
    words = np.zeros(ROWS_PER_UNIT * depth + LANES, weight.dtype)
    numbers = words.view(rounded_to.dtype)
    length = depth * weight.itemsize // rounded_to.itemsize
    sums, edge = np.empty(ROWS_PER_UNIT * PANEL, base.dtype), np.zeros(PANEL, np.float32)
    while True:
        first = take(counter) * ROWS_PER_UNIT
        if first >= rows:
            return
        count = min(ROWS_PER_UNIT, rows - first)
        source, at = x, first * inputs
        if norm[0].size > 0:
            _normalize_rows(x, at, count, inputs, norm, normalized)
            for i in range(0, count * inputs, LANES):
                store(kept, at + i, load(normalized, i))
            source, at = normalized, 0
        _round_rows(source, at, count, inputs, length, inverse, zero, numbers, edge)
        _multiply_rows(words, count, layer, outputs, sums, edge, out, first * outputs)


@jit
def _mlp_rows(x, at, count, inputs, outputs, layer, second, norm, buffers, out, to):
    """Take rows of x from `at` on through norm, product, GELU and product."""
    depth, weight, base, factors, bias, inverse, zero = layer
    hidden, inverse2, zero2 = second[0], second[5], second[6]
    normalized, words, numbers, between, rounded, sums, edge = buffers
    length, width = depth * weight.itemsize // numbers.itemsize, hidden * weight.itemsize // rounded.itemsize
    scale, offset = fill(inverse2), fill(zero2)
    source, start = x, at
    if norm[0].size > 0:
        _normalize_rows(x, at, count, inputs, norm, normalized)
        source, start = normalized, 0
    _round_rows(source, start, count, inputs, length, inverse, zero, numbers, edge)
    for panel in range(0, width, PANEL):
        multiply_panel(count, words, 0, depth, 1, weight, panel * depth, PANEL, depth, base, panel, 0, sums, 0, PANEL)
        for r in range(count):
            for lane in range(0, min(PANEL, width - panel), LANES):
                value = to_floats(load(sums, r * PANEL + lane))
                value = _gelu(multiply_add(value, load(factors, panel + lane), load(bias, panel + lane)))
                store(rounded, width * r + panel + lane, multiply_add(value, scale, offset))
    _multiply_rows(between, count, second, outputs, sums, edge, out, to)


@jit
def _mlp(counter, x, out, rows, inputs, outputs, layer, second, norm, rounded_to):
    depth, weight, base = layer[0], layer[1], layer[2]
    normalized = np.empty(ROWS_PER_UNIT * inputs, np.float32)
    words = np.zeros(ROWS_PER_UNIT * depth + LANES, weight.dtype)
    between = np.zeros(ROWS_PER_UNIT * second[0], weight.dtype)
    sums, edge = np.empty(ROWS_PER_UNIT * PANEL, base.dtype), np.zeros(PANEL, np.float32)
    numbers, rounded = words.view(rounded_to.dtype), between.view(rounded_to.dtype)
    buffers = normalized, words, numbers, between, rounded, sums, edge
    while True:
        first = take(counter) * ROWS_PER_UNIT
        if first >= rows:
            return
        count = min(ROWS_PER_UNIT, rows - first)
        _mlp_rows(x, first * inputs, count, inputs, outputs, layer, second, norm, buffers, out, first * outputs)


@jit
def _convolve_depthwise(x, first, count, sizes, kernel, target):
    """Write the depthwise convolution of pixels `first` to `first + count` of x N x H x W x C to `target`."""
    height, width, channels = sizes
    weight, bias, side = kernel
    for r in range(count):
        pixel = first + r
        column, row = pixel % width, pixel // width % height
        top, bottom = max(0, row - side // 2), min(height, row + side // 2 + 1)
        left, right = max(0, column - side // 2), min(width, column + side // 2 + 1)
        for c in range(0, channels, LANES):
            value = load(bias, c)
            for i in range(top, bottom):
                at = (pixel + (i - row) * width - column) * channels + c
                tap = ((i - row + side // 2) * side - column + side // 2) * channels + c
                for j in range(left, right):
                    value = multiply_add(load(weight, tap + j * channels), load(x, at + j * channels), value)
            store(target, r * channels + c, value)


@jit
def _block(counter, x, y, values, out, rows, sizes, sampled, query, output, mlp, rounded_to):
    """Compute a block of InternImage from its sampled values on, a block of pixels at a time.

    x is the input of the block, y what the depthwise convolution gets, `values` N x (H W C) what is sampled.
    """
    height, width, channels = sizes
    groups, points, scale, grid_y, grid_x = sampled
    kernel, query_norm, query_layer = query
    output_layer, output_norm, output_factors = output
    first_layer, second_layer, mlp_norm, mlp_norm_after, mlp_factors = mlp
    weight, base = query_layer[1], query_layer[2]
    depth, runs = query_layer[0], groups * points
    length = depth * weight.itemsize // rounded_to.itemsize
    rows_of_c, current = np.empty(ROWS_PER_UNIT * channels, np.float32), np.empty(ROWS_PER_UNIT * channels, np.float32)
    results = np.empty(ROWS_PER_UNIT * max(3 * runs, channels), np.float32)
    pairs, masks = np.empty(ROWS_PER_UNIT * 2 * runs, np.float32), np.empty(ROWS_PER_UNIT * runs, np.float32)
    offsets = pairs.view(np.complex64)
    block = np.empty(-(-runs // LANES) * LANES, np.float32)
    neighbors = grid_y.size // runs
    index, shares = np.empty((4, grid_y.size), np.int32), np.empty((4, grid_y.size), np.float32)
    words = np.zeros(ROWS_PER_UNIT * depth + LANES, weight.dtype)
    between = np.zeros(ROWS_PER_UNIT * second_layer[0], weight.dtype)
    sums, edge = np.empty(ROWS_PER_UNIT * PANEL, base.dtype), np.zeros(PANEL, np.float32)
    numbers, rounded = words.view(rounded_to.dtype), between.view(rounded_to.dtype)
    buffers = rows_of_c, words, numbers, between, rounded, sums, edge
    while True:
        first = take(counter) * ROWS_PER_UNIT
        if first >= rows:
            return
        count = min(ROWS_PER_UNIT, rows - first)

        _convolve_depthwise(y, first, count, sizes, kernel, rows_of_c)
        _normalize_rows(rows_of_c, 0, count, channels, query_norm, rows_of_c)
        for i in range(0, count * channels, LANES):
            store(rows_of_c, i, _gelu(load(rows_of_c, i)))
        _round_rows(rows_of_c, 0, count, channels, length, query_layer[5], query_layer[6], numbers, edge)
        _multiply_rows(words, count, query_layer, 3 * runs, sums, edge, results, 0)
        for r in range(count):
            for i in range(2 * runs):
                pairs[2 * runs * r + i] = results[3 * runs * r + i]
            softmax_of_runs(results, (3 * r + 2) * runs, groups, points, block, masks, runs * r)

        done = 0
        while done < count:  # the pixels of each row of the map, a few at a time
            column, row = (first + done) % width, (first + done) // width
            pixels = min(count - done, min(width - column, neighbors))
            own = slice(done * runs, (done + pixels) * runs)
            above, left = np.float32(row % height), np.float32(column)
            locate(offsets[own], masks[own], grid_y, grid_x, above, left, scale, height, width, index, shares)
            sample(values[row // height], index, shares, pixels, channels, groups, points, rows_of_c, done * channels)
            done += pixels

        _round_rows(rows_of_c, 0, count, channels, length, output_layer[5], output_layer[6], numbers, edge)
        _multiply_rows(words, count, output_layer, channels, sums, edge, results, 0)
        _add_rows(results, count, channels, output_norm, output_factors, x, first * channels, current, 0)

        _mlp_rows(current, 0, count, channels, channels, first_layer, second_layer, mlp_norm, buffers, results, 0)
        _add_rows(results, count, channels, mlp_norm_after, mlp_factors, current, 0, out, first * channels)


@jit
def _linear_team(openmp, threads, args):
    in_team(openmp, threads, _linear, args)


@jit
def _mlp_team(openmp, threads, args):
    in_team(openmp, threads, _mlp, args)


@jit
def _block_team(openmp, threads, args):
    in_team(openmp, threads, _block, args)


Kernel = tuple[np.ndarray, np.ndarray, int]
"""A depthwise convolution: k x k x C weights, C biases and k, which is odd."""
Norm = tuple[np.ndarray, np.ndarray, np.float32]
NOTHING = np.empty(0, np.float32)
NO_NORM: Norm = (NOTHING, NOTHING, np.float32(0))


class Layer(NamedTuple):
    """A linear layer for these kernels."""

    words: tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.float32, np.float32]
    """`layer`, as described at the top."""
    rounded_to: np.ndarray
    """An empty array of the dtype that rows are rounded to; int16 stands for bfloat16."""


def layer(matmul: PackedMatmul, bias: Tensor, inverse: float = 1.0, zero: float = 0.0) -> Layer:
    """Return a layer with a packed product, its bias P x PANEL, and factor and summand of its inputs."""
    base, factors, added = (as_numpy(each) for each in (matmul.base, matmul.factors, bias))
    panels, depth = as_numpy(matmul.panels, matmul.pair), matmul.depth // matmul.pair
    kinds = {torch.uint8: np.uint8, torch.bfloat16: np.int16, torch.float32: np.float32}
    words = (depth, panels, base, factors, added, np.float32(inverse), np.float32(zero))
    return Layer(words, np.empty(0, kinds[matmul.dtype]))


def linear(x: Tensor, layer: Layer, out: Tensor, norm: Norm = NO_NORM, kept: Tensor | None = None) -> None:
    """Write the linear map of the rows x R x C to out R x D, all float32 and contiguous.

    With `norm`, the rows are normalized first, and written to `kept`.
    """
    rows, inputs = x.shape
    maps = (as_numpy(x), as_numpy(out), rows, inputs, out.shape[1])
    normalized = NOTHING if kept is None else as_numpy(kept)
    run(_linear, _linear_team, -(-rows // ROWS_PER_UNIT), *maps, layer.words, norm, normalized, layer.rounded_to)


def mlp(x: Tensor, first: Layer, second: Layer, out: Tensor) -> None:
    """Write the second linear map of the GELU of the first one of the rows x R x C to out R x D."""
    rows, inputs = x.shape
    maps = (as_numpy(x), as_numpy(out), rows, inputs, out.shape[1])
    layers = (first.words, second.words, NO_NORM)
    run(_mlp, _mlp_team, -(-rows // ROWS_PER_UNIT), *maps, *layers, first.rounded_to)


def block(
    maps: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    sampled: tuple[int, int, float, np.ndarray, np.ndarray],
    query: tuple[Kernel, Norm, Layer],
    output: tuple[Layer, Norm, np.ndarray],
    mlp: tuple[Layer, Layer, Norm, Norm, np.ndarray],
) -> None:
    """Compute a block of InternImage from its sampled values on, N x H x W x C float32 maps.

    Args:
        maps: The input of the block, that of the depthwise convolution, and the values that DCNv3 samples.
        out: The result.
        sampled: Groups, points, scale of the offsets, and the positions of the points (`upernet.ops.dcnv3.cpu.grid`).
        query: The depthwise convolution, the layer norm after it, and the linear layer of offsets and masks.
        output: The linear layer after DCNv3, the layer norm after it, and factors of the result, or none.
        mlp: The layers, the layer norms before and after them, and factors of the result, or none.
    """
    x, y, values = maps
    images, height, width, channels = x.shape
    groups, points, scale, *grid = sampled
    kernel, query_norm, query_layer = query
    first, second, *rest = mlp
    rows = images * height * width
    run(
        _block,
        _block_team,
        -(-rows // ROWS_PER_UNIT),
        *(as_numpy(x), as_numpy(y), values.flatten(1).numpy(), as_numpy(out), rows, (height, width, channels)),
        (groups, points, np.float32(scale), *grid),
        (kernel, query_norm, query_layer.words),
        (output[0].words, *output[1:]),
        (first.words, second.words, *rest),
        query_layer.rounded_to,
    )


def warm_up() -> None:
    """Compile the kernel of one layer, or load it from Numba's cache, and run it on a row."""
    x = torch.zeros(1, LANES, dtype=torch.float32)
    matmul = PackedMatmul(torch.zeros(1, PANEL, LANES, dtype=torch.float32))
    matmul.factors = torch.ones(1, PANEL, dtype=torch.float32)
    one = layer(matmul, torch.zeros(PANEL, dtype=torch.float32))
    linear(x, one, torch.zeros(1, PANEL, dtype=torch.float32))
