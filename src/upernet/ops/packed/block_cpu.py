"""Blocks of InternImage on a CPU with Numba, from the depthwise convolution to the end, 64 pixels at a time."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
from torch import Tensor

from upernet.ops.dcnv3.cpu import locate, sample
from upernet.ops.packed.linear_cpu import (
    ROWS_PER_UNIT,
    Layer,
    Norm,
    gelu,
    hidden_buffers,
    mlp_rows,
    multiply_rows,
    normalize_rows,
    product_buffers,
    round_rows,
    row_units,
    rows_of_unit,
)
from upernet.ops.runtime.matmul import as_numpy
from upernet.ops.runtime.simd import LANES, add, load, multiply, multiply_add, store
from upernet.ops.runtime.threads import jit, kernel, run, take
from upernet.ops.softmax.cpu import softmax_of_runs

Kernel = tuple[np.ndarray, np.ndarray, int]
"""A depthwise convolution: k x k x C weights, C biases and k, which is odd."""


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
def _add_rows(rows, count, outputs, norm, factors, others, at, out, to):
    """Normalize rows, multiply them by factors, and write the sums with rows of `others` from `at` on."""
    if norm[0].size > 0:
        normalize_rows(rows, 0, count, outputs, norm, rows)
    for r in range(count):
        for c in range(0, outputs, LANES):
            value = load(rows, r * outputs + c)
            if factors.size > 0:
                value = multiply(value, load(factors, c))
            store(out, to + r * outputs + c, add(value, load(others, at + r * outputs + c)))


@kernel
def _block(counter, x, y, values, out, rows, units, sizes, sampled, query, output, mlp, rounded_to):
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
    neighbors = 1  # a power of 2, so that blocks of rows seldom end between neighbors
    while 2 * neighbors * runs <= grid_y.size:
        neighbors *= 2
    index, shares = np.empty((4, grid_y.size), np.int32), np.empty((4, grid_y.size), np.float32)
    buffers = product_buffers(depth, weight, base, rounded_to)
    words, numbers, sums, edge = buffers
    between = hidden_buffers(second_layer[0], weight, rounded_to)
    while True:
        unit = take(counter)
        if unit >= units[0]:
            return
        first, count = rows_of_unit(unit, units[1], units[2], rows)

        _convolve_depthwise(y, first, count, sizes, kernel, rows_of_c)
        normalize_rows(rows_of_c, 0, count, channels, query_norm, rows_of_c)
        for i in range(0, count * channels, LANES):
            store(rows_of_c, i, gelu(load(rows_of_c, i)))
        round_rows(rows_of_c, 0, count, channels, length, query_layer[5], query_layer[6], numbers, edge)
        multiply_rows(words, count, query_layer, 3 * runs, sums, edge, results, 0)
        for r in range(count):
            for i in range(2 * runs):
                pairs[2 * runs * r + i] = results[3 * runs * r + i]
            softmax_of_runs(results, (3 * r + 2) * runs, groups, points, block, masks, runs * r)

        done = 0
        while done < count:  # the pixels of each row of the map, a few at a time
            column, row = (first + done) % width, (first + done) // width
            place = column % neighbors  # positions are rounded alike wherever a block of rows begins
            pixels = min(count - done, min(width - column, neighbors - place))
            own, points_from = slice(done * runs, (done + pixels) * runs), place * runs
            y_of_points, x_of_points = grid_y[points_from:], grid_x[points_from:]
            above, left = np.float32(row % height), np.float32(column - place)
            locate(offsets[own], masks[own], y_of_points, x_of_points, above, left, scale, height, width, index, shares)
            sample(values[row // height], index, shares, pixels, channels, groups, points, rows_of_c, done * channels)
            done += pixels

        round_rows(rows_of_c, 0, count, channels, length, output_layer[5], output_layer[6], numbers, edge)
        multiply_rows(words, count, output_layer, channels, sums, edge, results, 0)
        _add_rows(results, count, channels, output_norm, output_factors, x, first * channels, current, 0)

        source = current
        if mlp_norm[0].size > 0:
            normalize_rows(current, 0, count, channels, mlp_norm, rows_of_c)
            source = rows_of_c
        mlp_rows(source, 0, count, channels, channels, first_layer, second_layer, buffers, between, results, 0)
        _add_rows(results, count, channels, mlp_norm_after, mlp_factors, current, 0, out, first * channels)


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
    units = row_units(rows)
    run(
        _block,
        units[0],
        *(as_numpy(x), as_numpy(y), values.flatten(1).numpy(), as_numpy(out), rows, units, (height, width, channels)),
        (groups, points, np.float32(scale), *grid),
        (kernel, query_norm, query_layer.words),
        (output[0].words, *output[1:]),
        (first.words, second.words, *rest),
        query_layer.rounded_to,
    )
