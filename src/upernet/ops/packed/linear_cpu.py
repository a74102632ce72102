"""Linear layers on a CPU with Numba, together with what comes before and after them in a network.

A thread takes a block of rows, normalizes it, rounds it to the dtype of the product, multiplies it by all panels of the
weight, converts the sums to float32, and normalizes, scales and adds what follows. Nothing in between leaves the
thread's cache, not even the hidden layer of a multilayer perceptron.

Arguments of the kernels that are tuples:

* layer: words per row, panels, base and factors (see `PackedMatmul`), bias, and how inputs are rounded: what they are
  multiplied by, and what is added.
* norm: weight and bias of a layer norm, both empty for none, and its epsilon.
* added: a factor per output and a map of the size of the result, both empty for none.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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
def _add_rows(rows, count, outputs, norm, added, out, to):
    """Normalize rows, multiply them by a factor, and write the sums with what they are added to."""
    factors, others = added
    if norm[0].size > 0:
        _normalize_rows(rows, 0, count, outputs, norm, rows)
    for r in range(count):
        for c in range(0, outputs, LANES):
            value = load(rows, r * outputs + c)
            if factors.size > 0:
                value = multiply(value, load(factors, c))
            store(out, to + r * outputs + c, add(value, load(others, to + r * outputs + c)))


@jit
def _linear(counter, x, out, rows, inputs, outputs, layer, norm, norm_after, added, rounded_to):
    depth, weight, base, inverse, zero = layer[0], layer[1], layer[2], layer[5], layer[6]
    normalized = np.empty(ROWS_PER_UNIT * inputs if norm[0].size > 0 else 0, np.float32)
    results = np.empty(ROWS_PER_UNIT * outputs if added[1].size > 0 else 0, np.float32)
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
            source, at = normalized, 0
        _round_rows(source, at, count, inputs, length, inverse, zero, numbers, edge)
        if added[1].size > 0:
            _multiply_rows(words, count, layer, outputs, sums, edge, results, 0)
            _add_rows(results, count, outputs, norm_after, added, out, first * outputs)
        else:
            _multiply_rows(words, count, layer, outputs, sums, edge, out, first * outputs)


@jit
def _mlp(counter, x, out, rows, inputs, outputs, layer, second, norm, norm_after, added, rounded_to):
    depth, weight, base, factors, bias, inverse, zero = layer
    hidden, inverse2, zero2 = second[0], second[5], second[6]
    normalized = np.empty(ROWS_PER_UNIT * inputs if norm[0].size > 0 else 0, np.float32)
    results = np.empty(ROWS_PER_UNIT * outputs if added[1].size > 0 else 0, np.float32)
    words = np.zeros(ROWS_PER_UNIT * depth + LANES, weight.dtype)
    numbers = words.view(rounded_to.dtype)
    length = depth * weight.itemsize // rounded_to.itemsize
    between = np.zeros(ROWS_PER_UNIT * hidden, weight.dtype)
    rounded = between.view(rounded_to.dtype)
    width = hidden * weight.itemsize // rounded_to.itemsize
    sums, edge = np.empty(ROWS_PER_UNIT * PANEL, base.dtype), np.zeros(PANEL, np.float32)
    scale, offset = fill(inverse2), fill(zero2)
    while True:
        first = take(counter) * ROWS_PER_UNIT
        if first >= rows:
            return
        count = min(ROWS_PER_UNIT, rows - first)
        source, start = x, first * inputs
        if norm[0].size > 0:
            _normalize_rows(x, start, count, inputs, norm, normalized)
            source, start = normalized, 0
        _round_rows(source, start, count, inputs, length, inverse, zero, numbers, edge)
        for at in range(0, width, PANEL):
            multiply_panel(count, words, 0, depth, 1, weight, at * depth, PANEL, depth, base, at, 0, sums, 0, PANEL)
            for r in range(count):
                for lane in range(0, min(PANEL, width - at), LANES):
                    value = to_floats(load(sums, r * PANEL + lane))
                    value = _gelu(multiply_add(value, load(factors, at + lane), load(bias, at + lane)))
                    store(rounded, width * r + at + lane, multiply_add(value, scale, offset))
        if added[1].size > 0:
            _multiply_rows(between, count, second, outputs, sums, edge, results, 0)
            _add_rows(results, count, outputs, norm_after, added, out, first * outputs)
        else:
            _multiply_rows(between, count, second, outputs, sums, edge, out, first * outputs)


@jit
def _layer_norm(counter, x, out, rows, width, norm):
    buffer = np.empty(ROWS_PER_UNIT * width, np.float32)
    while True:
        first = take(counter) * ROWS_PER_UNIT
        if first >= rows:
            return
        count = min(ROWS_PER_UNIT, rows - first)
        _normalize_rows(x, first * width, count, width, norm, buffer)
        for i in range(0, count * width, LANES):
            store(out, first * width + i, load(buffer, i))


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
def _sampling(counter, x, offsets, masks, rows, sizes, kernel, points, groups, layer, norm, rounded_to):
    depth, weight, base, inverse, zero = layer[0], layer[1], layer[2], layer[5], layer[6]
    inputs = sizes[2]
    runs = groups * points
    outputs = 3 * runs
    query = np.empty(ROWS_PER_UNIT * inputs, np.float32)
    results = np.empty(ROWS_PER_UNIT * outputs, np.float32)
    block = np.empty(-(-runs // LANES) * LANES, np.float32)
    words = np.zeros(ROWS_PER_UNIT * depth + LANES, weight.dtype)
    numbers = words.view(rounded_to.dtype)
    length = depth * weight.itemsize // rounded_to.itemsize
    sums, edge = np.empty(ROWS_PER_UNIT * PANEL, base.dtype), np.zeros(PANEL, np.float32)
    while True:
        first = take(counter) * ROWS_PER_UNIT
        if first >= rows:
            return
        count = min(ROWS_PER_UNIT, rows - first)
        _convolve_depthwise(x, first, count, sizes, kernel, query)
        _normalize_rows(query, 0, count, inputs, norm, query)
        for k in range(0, count * inputs, LANES):
            store(query, k, _gelu(load(query, k)))
        _round_rows(query, 0, count, inputs, length, inverse, zero, numbers, edge)
        _multiply_rows(words, count, layer, outputs, sums, edge, results, 0)
        for r in range(count):
            at = r * outputs
            for i in range(2 * runs):
                offsets[2 * runs * (first + r) + i] = results[at + i]
            softmax_of_runs(results, at + 2 * runs, groups, points, block, masks, runs * (first + r))


@jit
def _layer_norm_team(openmp, threads, args):
    in_team(openmp, threads, _layer_norm, args)


@jit
def _linear_team(openmp, threads, args):
    in_team(openmp, threads, _linear, args)


@jit
def _mlp_team(openmp, threads, args):
    in_team(openmp, threads, _mlp, args)


@jit
def _sampling_team(openmp, threads, args):
    in_team(openmp, threads, _sampling, args)


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


def _added(factors: np.ndarray | None, others: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    return NOTHING if factors is None else factors, NOTHING if others is None else as_numpy(others)


def linear(
    x: Tensor, layer: Layer, out: Tensor, norms: tuple[Norm, Norm], factors: np.ndarray | None, others: Tensor | None
) -> None:
    """Write the linear map of the rows x R x C to out R x D, both float32 and contiguous.

    Args:
        x: The rows.
        layer: The layer.
        out: The result.
        norms: Layer norms of the rows and, where something is added, of the result.
        factors: What the result is multiplied by before it is added, D.
        others: What it is added to, R x D.
    """
    rows, inputs = x.shape
    units = -(-rows // ROWS_PER_UNIT)
    maps = (as_numpy(x), as_numpy(out), rows, inputs, out.shape[1])
    run(_linear, _linear_team, units, *maps, layer.words, *norms, _added(factors, others), layer.rounded_to)


def mlp(
    x: Tensor,
    first: Layer,
    second: Layer,
    out: Tensor,
    norms: tuple[Norm, Norm],
    factors: np.ndarray | None,
    others: Tensor | None,
) -> None:
    """Write the second linear map of the GELU of the first one, like `linear`."""
    rows, inputs = x.shape
    units = -(-rows // ROWS_PER_UNIT)
    maps = (as_numpy(x), as_numpy(out), rows, inputs, out.shape[1])
    layers = (first.words, second.words)
    run(_mlp, _mlp_team, units, *maps, *layers, *norms, _added(factors, others), first.rounded_to)


def layer_norm(x: Tensor, norm: Norm, out: Tensor) -> None:
    """Write the layer norm of the rows x R x C, C a multiple of LANES, to `out`, both float32 and contiguous."""
    units = -(-len(x) // ROWS_PER_UNIT)
    run(_layer_norm, _layer_norm_team, units, as_numpy(x), as_numpy(out), *x.shape, norm)


def sampling(x: Tensor, kernel: Kernel, norm: Norm, layer: Layer, offsets: Tensor, masks: Tensor, groups: int) -> None:
    """Write offsets and masks of DCNv3 for x N x H x W x C, float32 and contiguous.

    Args:
        x: The input of the depthwise convolution.
        kernel: The depthwise convolution.
        norm: The layer norm after it, which a GELU follows.
        layer: The linear layer C -> 3 G P.
        offsets: Receives the first 2 G P outputs, R x (2 G P).
        masks: Receives the softmax per group of the others, R x (G P).
        groups: G.
    """
    rows = len(masks)
    units = -(-rows // ROWS_PER_UNIT)
    maps = (as_numpy(x), as_numpy(offsets), as_numpy(masks), rows, tuple(x.shape[1:]))
    points = masks.shape[1] // groups
    run(_sampling, _sampling_team, units, *maps, kernel, points, groups, layer.words, norm, layer.rounded_to)


def warm_up() -> None:
    """Compile the kernel of one layer, or load it from Numba's cache, and run it on a row."""
    x = torch.zeros(1, LANES, dtype=torch.float32)
    matmul = PackedMatmul(torch.zeros(1, PANEL, LANES, dtype=torch.float32))
    matmul.factors = torch.ones(1, PANEL, dtype=torch.float32)
    one = layer(matmul, torch.zeros(PANEL, dtype=torch.float32))
    linear(x, one, torch.zeros(1, PANEL, dtype=torch.float32), (NO_NORM, NO_NORM), None, None)
