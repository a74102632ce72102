"""Linear layers and multilayer perceptrons with packed weights on a CPU with Numba, and steps of larger kernels.

A thread takes a block of rows, normalizes it if there is a layer norm, rounds it to the dtype of the product,
multiplies it by all panels of the weight, and converts the sums to float32. Nothing in between leaves the thread's
cache, not even the hidden layer of a multilayer perceptron.

Arguments of the kernels that are tuples:

* layer: words per row, panels and base (see `PackedMatmul`), factors and bias of the sums, and how inputs are rounded:
  what they are multiplied by, and what is added.
* norm: weight and bias of a layer norm, both empty for none, and its epsilon.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.matmul import HAS_BFLOAT16, PANEL, ROWS, as_numpy, multiply_panel
from upernet.ops.runtime.simd import (
    LANES,
    add,
    fill,
    load,
    multiply,
    multiply_add,
    select_larger,
    store,
    to_floats,
    total,
)
from upernet.ops.runtime.threads import jit, kernel, run, take

ROWS_PER_UNIT = 64
"""Rows that a thread takes at a time, at most."""

# The normal distribution function is 1/2 + x g(x^2). For |x| <= FLAT, the polynomial in u = 2 x^2 / FLAT^2 - 1 with the
# coefficients TERMS, the highest power first, differs from g by at most 1e-7 / |x|. At the ends, the function becomes 1
# or 0, and it stays so beyond them.
FLAT = 5.25
TERMS = tuple(
    np.float32(term)
    for term in (
        -5.574531e-4,
        1.4764001e-3,
        -1.345026e-3,
        1.8181682e-3,
        -5.089198e-3,
        9.11961e-3,
        -1.2976302e-2,
        1.8304514e-2,
        -2.4987832e-2,
        3.2068428e-2,
        -3.976957e-2,
        4.964361e-2,
        -6.712662e-2,
        1.3465936e-1,
    )
)


@jit
def gelu(x):
    """Return x times the normal distribution function of x, per lane."""
    low, high = fill(np.float32(-FLAT)), fill(np.float32(FLAT))
    size = select_larger(low, x, low, x)
    size = select_larger(size, high, high, size)
    u = multiply_add(multiply(size, size), fill(np.float32(2 / FLAT**2)), fill(np.float32(-1)))
    polynomial = fill(TERMS[0])
    for term in TERMS[1:]:
        polynomial = multiply_add(polynomial, u, fill(term))
    return multiply(x, multiply_add(size, polynomial, fill(np.float32(0.5))))


@jit
def normalize_rows(x, at, count, width, norm, target):
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
def round_rows(x, at, count, inputs, length, inverse, zero, rows, edge):
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
def multiply_rows(words, count, layer, outputs, sums, edge, out, to):
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
def product_buffers(depth, weight, base, rounded_to):
    """Return memory for a block of rows: words, the same as numbers of their dtype, sums with a panel, and an edge."""
    words = np.zeros(ROWS_PER_UNIT * depth + LANES, weight.dtype)
    sums, edge = np.empty(ROWS_PER_UNIT * PANEL, base.dtype), np.zeros(PANEL, np.float32)
    return words, words.view(rounded_to.dtype), sums, edge


@jit
def hidden_buffers(depth, weight, rounded_to):
    """Return memory for the hidden layer of a block of rows: words, and the same as numbers of their dtype."""
    words = np.zeros(ROWS_PER_UNIT * depth, weight.dtype)
    return words, words.view(rounded_to.dtype)


def row_units(rows: int) -> tuple[int, int, int]:
    """Return how `rows` are divided: the number of units, of whole units among them, and rows of each of the others.

    Each thread gets the same number of whole units. The rows that are left are divided into one unit per thread, so
    that no thread has to wait for another one, and all have work if there are few rows.
    """
    threads = torch.get_num_threads()
    whole = rows // (ROWS_PER_UNIT * threads) * threads
    left = rows - whole * ROWS_PER_UNIT
    part = -(-left // (ROWS * threads)) * ROWS
    return whole + (-(-left // part) if left else 0), whole, part


@jit
def rows_of_unit(unit, whole, part, rows):
    """Return the first row of a unit, and the number of its rows."""
    if unit < whole:
        return unit * ROWS_PER_UNIT, ROWS_PER_UNIT
    first = whole * ROWS_PER_UNIT + (unit - whole) * part
    return first, min(part, rows - first)


@kernel
def _linear(counter, x, out, rows, units, inputs, outputs, layer, norm, kept, rounded_to):
    depth, weight, base, inverse, zero = layer[0], layer[1], layer[2], layer[5], layer[6]
    normalized = np.empty(ROWS_PER_UNIT * inputs if norm[0].size > 0 else 0, np.float32)
    words, numbers, sums, edge = product_buffers(depth, weight, base, rounded_to)
    length = depth * weight.itemsize // rounded_to.itemsize
    while True:
        unit = take(counter)
        if unit >= units[0]:
            return
        first, count = rows_of_unit(unit, units[1], units[2], rows)
        source, at = x, first * inputs
        if norm[0].size > 0:
            normalize_rows(x, at, count, inputs, norm, normalized)
            for i in range(0, count * inputs, LANES):
                store(kept, at + i, load(normalized, i))
            source, at = normalized, 0
        round_rows(source, at, count, inputs, length, inverse, zero, numbers, edge)
        multiply_rows(words, count, layer, outputs, sums, edge, out, first * outputs)


@jit
def mlp_rows(x, at, count, inputs, outputs, layer, second, buffers, hidden_layer, out, to):
    """Take rows of x from `at` on through product, GELU and product, in the memory of the buffers."""
    depth, weight, base, factors, bias, inverse, zero = layer
    hidden, inverse2, zero2 = second[0], second[5], second[6]
    words, numbers, sums, edge = buffers
    between, rounded = hidden_layer
    length, width = depth * weight.itemsize // numbers.itemsize, hidden * weight.itemsize // rounded.itemsize
    scale, offset = fill(inverse2), fill(zero2)
    round_rows(x, at, count, inputs, length, inverse, zero, numbers, edge)
    for panel in range(0, width, PANEL):
        multiply_panel(count, words, 0, depth, 1, weight, panel * depth, PANEL, depth, base, panel, 0, sums, 0, PANEL)
        for r in range(count):
            for lane in range(0, min(PANEL, width - panel), LANES):
                value = to_floats(load(sums, r * PANEL + lane))
                value = gelu(multiply_add(value, load(factors, panel + lane), load(bias, panel + lane)))
                store(rounded, width * r + panel + lane, multiply_add(value, scale, offset))
    multiply_rows(between, count, second, outputs, sums, edge, out, to)


@kernel
def _mlp(counter, x, out, rows, units, inputs, outputs, layer, second, rounded_to):
    buffers = product_buffers(layer[0], layer[1], layer[2], rounded_to)
    between = hidden_buffers(second[0], layer[1], rounded_to)
    while True:
        unit = take(counter)
        if unit >= units[0]:
            return
        first, count = rows_of_unit(unit, units[1], units[2], rows)
        mlp_rows(x, first * inputs, count, inputs, outputs, layer, second, buffers, between, out, first * outputs)


Norm = tuple[np.ndarray, np.ndarray, np.float32]
NOTHING = np.empty(0, np.float32)
NO_NORM: Norm = (NOTHING, NOTHING, np.float32(0))
ROUNDED_TO = {
    torch.float32: NOTHING,
    torch.bfloat16: np.empty(0, np.int16),
    torch.int8: np.empty(0, np.uint8),
}
"""Dtype of a weight -> an empty array of the dtype that rows are rounded to; int16 stands for bfloat16."""


class Layer(NamedTuple):
    """A linear layer for these kernels."""

    words: tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.float32, np.float32]
    """`layer`, as described at the top."""
    rounded_to: np.ndarray
    """That of `ROUNDED_TO`."""


def layer(tensors: Sequence[Tensor], rounding: Sequence[float]) -> Layer:
    """Return a layer with the tensors and the rounding of a `PackedLinear`.

    Raises:
        ValueError: The weight was packed for another kind of processor.
    """
    panels, *sums = tensors
    *_, depth, width, pair = panels.shape
    if width != PANEL or (panels.dtype == torch.bfloat16 and not HAS_BFLOAT16):
        raise ValueError("weights were packed for another kind of processor: prepare the network on this one")
    base, factors, bias = (each.numpy() for each in sums)
    inverse, zero = map(np.float32, rounding)
    return Layer((depth, as_numpy(panels, pair), base, factors, bias, inverse, zero), ROUNDED_TO[panels.dtype])


def linear(x: Tensor, layer: Layer, out: Tensor, norm: Norm = NO_NORM, kept: Tensor | None = None) -> None:
    """Write the linear map of the rows x R x C to out R x D, all float32 and contiguous.

    With `norm`, the rows are normalized first, and written to `kept`.
    """
    rows, inputs = x.shape
    units = row_units(rows)
    maps = (as_numpy(x), as_numpy(out), rows, units, inputs, out.shape[1])
    normalized = NOTHING if kept is None else as_numpy(kept)
    run(_linear, units[0], *maps, layer.words, norm, normalized, layer.rounded_to)


def mlp(x: Tensor, first: Layer, second: Layer, out: Tensor) -> None:
    """Write the second linear map of the GELU of the first one of the rows x R x C to out R x D."""
    rows, inputs = x.shape
    units = row_units(rows)
    maps = (as_numpy(x), as_numpy(out), rows, units, inputs, out.shape[1])
    layers = (first.words, second.words)
    run(_mlp, units[0], *maps, *layers, first.rounded_to)


def warm_up() -> None:
    """Compile the kernel of one layer, or load it from Numba's cache, and run it on a row."""
    panel = torch.zeros(1, 1, LANES, PANEL, 1, dtype=torch.float32)
    sums = torch.zeros(3, PANEL, dtype=torch.float32)
    x, out = torch.zeros(1, LANES, dtype=torch.float32), torch.empty(1, PANEL, dtype=torch.float32)
    linear(x, layer((panel, *sums), (1.0, 0.0)), out)
