"""Labels and probabilities from interpolated logits on a CPU with Numba.

A unit of work is a block of pixels, whose logits are first interpolated along the rows. Then, LANES pixels at a time,
one pass over the classes finds the largest logit, and a second one adds up the exponentials; both interpolate along the
columns again, in registers, which takes less time than to read the values from memory. The interpolated logits differ
from those of `reference` in their last bits where the matrix product there adds in another order, and the probabilities
by the last bits of the exponential function.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from upernet.ops.eligibility import LANES
from upernet.ops.runtime.simd import add, exp, fill, load, multiply_add, select_larger, store
from upernet.ops.runtime.threads import jit, kernel, run, take

if TYPE_CHECKING:
    from upernet.ops.guided import Axis
    from upernet.ops.upsampled import OwnedChannels

COLUMNS = 64
"""Columns of a block: the interpolated logits of 62 classes for two rows take 32 KiB."""
SPANS = 8
"""Rows of logits that a block lies between."""
SUMMED = 16
"""Exponentials that are added up before their sum is added to the others, as torch does, for smaller errors."""


@jit
def _widen(logits, row, columns, width, wide, at, steps):
    """Interpolate one row of each class at the columns of a block, as `torch.lerp` does: from the nearer logit."""
    before, after, nearest, share = columns
    for k in range(len(logits)):
        for x in range(width):
            steps[x] = logits[k, row, after[x]] - logits[k, row, before[x]]
            steps[COLUMNS + x] = logits[k, row, nearest[x]]
        for x in range(0, COLUMNS, LANES):
            value = multiply_add(load(share, x), load(steps, x), load(steps, COLUMNS + x))
            store(wide, at + k * COLUMNS + x, value)


@jit
def _widen_pair(logits, above, below, columns, width, wide, pair, steps):
    """Interpolate the rows `above` and `below` of a row of pixels, unless they have been.

    `pair` is where the two rows begin in `wide`, and which they are; the function returns the new one.
    """
    upper, lower, upper_row, lower_row = pair
    if lower_row == above:
        upper, lower = lower, upper
        upper_row, lower_row = lower_row, np.int64(-1)
    if upper_row != above:
        _widen(logits, above, columns, width, wide, upper, steps)
    if lower_row != below:
        _widen(logits, below, columns, width, wide, lower, steps)
    return upper, lower, above, below


@jit
def _label(wide, above, below, classes, down, channels, totals):
    """Find the channel of the largest logit of LANES pixels, and the sum of the exponentials of what others lack."""
    zero, one, minus = fill(np.float32(0)), fill(np.float32(1)), fill(np.float32(-1))
    lower, upper = fill(down), fill(np.float32(1) - down)
    largest, chosen, number = fill(np.float32(-np.inf)), zero, zero
    for k in range(classes):
        at = k * COLUMNS
        value = multiply_add(lower, load(wide, below + at), multiply_add(upper, load(wide, above + at), zero))
        chosen = select_larger(value, largest, number, chosen)
        largest = select_larger(value, largest, value, largest)
        number = add(number, one)
    total = zero
    for start in range(0, classes, SUMMED):
        part = zero
        for k in range(start, min(start + SUMMED, classes)):
            at = k * COLUMNS
            value = multiply_add(lower, load(wide, below + at), multiply_add(upper, load(wide, above + at), zero))
            part = add(part, exp(multiply_add(largest, minus, value)))
        total = add(total, part)
    store(channels, 0, chosen)
    store(totals, 0, total)


@jit
def _exponentiate(wide, above, below, classes, down, exponentials, totals):
    """Write the softmax of LANES pixels before the division, LANES values per class, and the divisors."""
    zero, minus = fill(np.float32(0)), fill(np.float32(-1))
    lower, upper = fill(down), fill(np.float32(1) - down)
    largest = fill(np.float32(-np.inf))
    for k in range(classes):
        at = k * COLUMNS
        value = multiply_add(lower, load(wide, below + at), multiply_add(upper, load(wide, above + at), zero))
        largest = select_larger(value, largest, value, largest)
        store(exponentials, k * LANES, value)
    total = zero
    for start in range(0, classes, SUMMED):
        part = zero
        for k in range(start, min(start + SUMMED, classes)):
            value = exp(multiply_add(largest, minus, load(exponentials, k * LANES)))
            store(exponentials, k * LANES, value)
            part = add(part, value)
        total = add(total, part)
    store(totals, 0, total)


@jit
def _find(group, group_of, owners, found):
    """Note which pixels belong to a group, and return whether any does."""
    some = False
    for i in range(len(owners)):
        found[i] = group_of[owners[i]] == group
        some |= found[i]
    return some


@kernel
def _upsample(counter, logits, rows, columns, spans, groups, names, group_of, owners, labels, confidence):
    above, below, y_part = rows
    before, after, nearest, share = columns
    width = labels.shape[1]
    blocks = -(-width // COLUMNS)
    classes = len(logits)
    wide, steps = np.zeros(2 * classes * COLUMNS, np.float32), np.zeros(2 * COLUMNS, np.float32)
    shares = np.zeros(COLUMNS, np.float32)
    channels, totals = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    found = np.empty(COLUMNS, np.bool_)
    for x in range(COLUMNS):
        found[x] = True
    while True:
        unit = take(counter)
        first_span = unit // blocks * SPANS
        if first_span >= len(spans) - 1:
            return
        left = unit % blocks * COLUMNS
        right = min(left + COLUMNS, width)
        for x in range(right - left):
            shares[x] = share[left + x]
        own_columns = before[left:right], after[left:right], nearest[left:right], shares
        for group in range(len(groups)):
            first, last = groups[group]
            values, own_names = logits[first:last], names[first:last]
            pair = 0, classes * COLUMNS, np.int64(-1), np.int64(-1)
            for y in range(spans[first_span], spans[min(first_span + SPANS, len(spans) - 1)]):
                if owners.size and not _find(group, group_of, owners[y, left:right], found):
                    continue
                pair = _widen_pair(values, above[y], below[y], own_columns, right - left, wide, pair, steps)
                upper, lower, _, _ = pair
                for x in range(0, right - left, LANES):
                    pixels = min(LANES, right - left - x)
                    some = False
                    for i in range(pixels):
                        some |= found[x + i]
                    if not some:
                        continue
                    _label(wide, upper + x, lower + x, len(values), y_part[y], channels, totals)
                    for i in range(pixels):
                        if found[x + i]:
                            labels[y, left + x + i] = own_names[np.int64(channels[i])]
                            confidence[y, left + x + i] = np.float32(1) / totals[i]


@kernel
def _add_probabilities(counter, logits, rows, columns, spans, sums, plane, line, width):
    above, below, y_part = rows
    before, after, nearest, share = columns
    blocks = -(-width // COLUMNS)
    classes = len(logits)
    wide, steps = np.zeros(2 * classes * COLUMNS, np.float32), np.zeros(2 * COLUMNS, np.float32)
    shares, exponentials = np.zeros(COLUMNS, np.float32), np.empty(classes * LANES, np.float32)
    totals = np.empty(LANES, np.float32)
    while True:
        unit = take(counter)
        first_span = unit // blocks * SPANS
        if first_span >= len(spans) - 1:
            return
        left = unit % blocks * COLUMNS
        right = min(left + COLUMNS, width)
        for x in range(right - left):
            shares[x] = share[left + x]
        own_columns = before[left:right], after[left:right], nearest[left:right], shares
        pair = 0, classes * COLUMNS, np.int64(-1), np.int64(-1)
        for y in range(spans[first_span], spans[min(first_span + SPANS, len(spans) - 1)]):
            pair = _widen_pair(logits, above[y], below[y], own_columns, right - left, wide, pair, steps)
            upper, lower, _, _ = pair
            for x in range(0, right - left, LANES):
                _exponentiate(wide, upper + x, lower + x, classes, y_part[y], exponentials, totals)
                for i in range(LANES):
                    totals[i] = np.float32(1) / totals[i]
                pixels = min(LANES, right - left - x)
                at = y * line + left + x
                if pixels == LANES:
                    factor = load(totals, 0)
                    for k in range(classes):
                        to = k * plane + at
                        store(sums, to, multiply_add(factor, load(exponentials, k * LANES), load(sums, to)))
                else:
                    for k in range(classes):
                        for i in range(pixels):
                            sums[k * plane + at + i] += totals[i] * exponentials[k * LANES + i]


def upsample(
    logits: Tensor,
    rows: Axis,
    columns: Axis,
    labels: Tensor,
    confidence: Tensor,
    owners: Tensor | None,
    groups: Sequence[OwnedChannels],
) -> None:
    """Compute what `upernet.ops.upsampled.reference.upsample` does."""
    names = np.arange(len(logits), dtype=np.int16)
    group_of = np.full(0 if owners is None else int(owners.max()) + 1, -1)
    ends = [(0, len(logits))] if owners is None else []
    for group in groups if owners is not None else ():
        end = group.first + len(group.names)
        names[group.first : end] = group.names
        if group.owner < len(group_of):
            group_of[group.owner] = len(ends)
            ends.append((group.first, end))
    if not ends:
        return
    units, *places = _places(rows, columns)
    whose = np.zeros((0, 0), np.int16) if owners is None else owners.numpy()
    args = (np.array(ends), names, group_of, whose, labels.numpy(), confidence.numpy())
    run(_upsample, units, logits.numpy(), *places, *args)


def add_probabilities(logits: Tensor, rows: Axis, columns: Axis, sums: Tensor) -> None:
    """Compute what `upernet.ops.upsampled.reference.add_probabilities` does."""
    classes, height, width = sums.shape
    plane, line, _ = sums.stride()
    length = (classes - 1) * plane + (height - 1) * line + width
    units, *places = _places(rows, columns)
    sums = sums.as_strided((length,), (1,))
    run(_add_probabilities, units, logits.numpy(), *places, sums.numpy(), plane, line, width)


def _places(rows: Axis, columns: Axis) -> tuple[int, Any, Any, Any]:
    """Return how many units of work there are, the rows and columns as kernels read them, and the spans of rows.

    A span is the rows of pixels between the same two rows of logits; it is the number of its first row. The last one
    is the number of rows.
    """
    above, below, down = (tensor.numpy() for tensor in rows)
    before, after, right = (tensor.numpy() for tensor in columns)
    near = right < 0.5
    across = (before, after, np.where(near, before, after), np.where(near, right, right - np.float32(1)))
    spans = np.flatnonzero(np.append(True, above[1:] != above[:-1]))
    units = -(-len(spans) // SPANS) * -(-len(before) // COLUMNS)
    return units, (above, below, down), across, np.append(spans, len(above))


def warm_up() -> None:
    """Compile the kernel of labels, or load it from Numba's cache; few processes need that of probabilities."""
    from upernet.ops.guided import Axis
    from upernet.ops.upsampled import OwnedChannels

    axis = Axis(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    labels, owners = torch.zeros(2, 2, dtype=torch.int16), torch.zeros(2, 2, dtype=torch.int16)
    groups = [OwnedChannels(0, 0, (0,))]
    upsample(torch.zeros(1, 1, 1), axis, axis, labels, torch.zeros(2, 2), owners, groups)
