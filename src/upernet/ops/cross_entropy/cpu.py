"""Cross-entropy of resized logits on a CPU with Numba, a pixel at a time.

A row of labels lies between two rows of logits. Those are interpolated into one row, whose neighbors are interpolated
for each pixel that has a label. The gradient takes the same way back: a pixel adds to two neighbors in a row, and the
row, in the end, to two rows of the result. Channels are padded to whole vectors by logits that are too small to count.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.bilinear import axis
from upernet.ops.runtime.simd import LANES, add, exp, fill, largest, load, maximum, multiply_add, store, total
from upernet.ops.runtime.threads import jit, kernel, run, take

LEAST = -1e30
"""Logit of a channel that pads the last vector."""


@jit
def _blend(x, at, above, below, part, row, width, classes, padded):
    """Interpolate two rows of logits into one with padded channels."""
    rest = x.dtype.type(1) - part
    whole = classes // LANES * LANES
    for column in range(width):
        i, j, to = at + above + column * classes, at + below + column * classes, column * padded
        for c in range(0, whole, LANES):
            lower = multiply_add(fill(part), load(x, j + c), fill(np.float32(0)))
            store(row, to + c, multiply_add(fill(rest), load(x, i + c), lower))
        for c in range(whole, classes):
            row[to + c] = rest * x[i + c] + part * x[j + c]


@jit
def _spread(row, part, grad, at, above, below, width, classes, padded):
    """Add a row of gradients to those of the two rows that it was interpolated from."""
    rest = grad.dtype.type(1) - part
    whole = classes // LANES * LANES
    for column in range(width):
        i, j, of = at + above + column * classes, at + below + column * classes, column * padded
        for c in range(0, whole, LANES):
            value = load(row, of + c)
            store(grad, i + c, multiply_add(fill(rest), value, load(grad, i + c)))
            store(grad, j + c, multiply_add(fill(part), value, load(grad, j + c)))
        for c in range(whole, classes):
            grad[i + c] += rest * row[of + c]
            grad[j + c] += part * row[of + c]


@kernel
def _forward(counter, images, size, coarse, x, target, tables, y_axis, x_axis, losses, grad):
    height, width = size
    weights, members, counted, set_weights = tables
    coarse_height, coarse_width, classes = coarse
    y_below, y_above, y_part = y_axis
    x_below, x_above, x_part = x_axis
    padded = -(-classes // LANES) * LANES
    with_gradient = grad.size > 0
    row = np.full(coarse_width * padded, np.float32(LEAST), np.float32)
    back = np.zeros(coarse_width * padded, np.float32)
    pixel = np.empty(padded, np.float32)
    one = np.float32(1)
    zero = fill(np.float32(0))
    while True:
        image = take(counter)
        if image >= images:
            return
        loss = 0.0
        at = image * coarse_height * coarse_width * classes
        for y in range(height):
            labels = (image * height + y) * width
            known = False
            for column in range(width):
                label = target[labels + column]
                known |= label >= 0 or (label < -1 and counted[-2 - label])
            if not known:
                continue
            above, below = y_below[y] * coarse_width * classes, y_above[y] * coarse_width * classes
            _blend(x, at, above, below, y_part[y], row, coarse_width, classes, padded)
            if with_gradient:
                back[:] = np.float32(0)
            for column in range(width):
                label = target[labels + column]
                if label == -1 or (label < -1 and not counted[-2 - label]):
                    continue
                left, right = x_below[column] * padded, x_above[column] * padded
                to_left, to_right = fill(one - x_part[column]), fill(x_part[column])
                high = fill(np.float32(LEAST))
                for c in range(0, padded, LANES):
                    value = multiply_add(to_right, load(row, right + c), zero)
                    value = multiply_add(to_left, load(row, left + c), value)
                    store(pixel, c, value)
                    high = maximum(high, value)
                most = largest(high)
                own = pixel[max(label, 0)] - most
                lowered, sums = fill(-most), zero
                for c in range(0, padded, LANES):
                    value = exp(add(load(pixel, c), lowered))
                    store(pixel, c, value)
                    sums = add(sums, value)
                everything = total(sums)
                if label >= 0:
                    factor = weights[label]
                    loss += factor * (np.log(everything) - own)
                    inside = one
                else:
                    start = (-2 - label) * padded
                    factor = set_weights[-2 - label]
                    sums = zero
                    for c in range(0, padded, LANES):
                        sums = multiply_add(load(members, start + c), load(pixel, c), sums)
                    inside = total(sums)
                    loss += factor * (np.log(everything) - np.log(inside))
                if not with_gradient:
                    continue
                share = fill(factor / everything)
                own_share = fill(-factor / inside)
                for c in range(0, padded, LANES):
                    value = multiply_add(share, load(pixel, c), zero)
                    if label < 0:
                        mine = multiply_add(load(members, (-2 - label) * padded + c), load(pixel, c), zero)
                        value = multiply_add(own_share, mine, value)
                    store(back, left + c, multiply_add(to_left, value, load(back, left + c)))
                    store(back, right + c, multiply_add(to_right, value, load(back, right + c)))
                if label >= 0:
                    back[left + label] -= factor * (one - x_part[column])
                    back[right + label] -= factor * x_part[column]
            if with_gradient:
                _spread(back, y_part[y], grad, at, above, below, coarse_width, classes, padded)
        losses[image] = loss


def forward(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    members: Tensor | None,
    set_weights: Tensor | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Return `upernet.ops.resized_cross_entropy` and its gradient, channels-last; that is empty if not wanted."""
    images, classes, *coarse = logits.shape
    size = tuple(target.shape[1:])
    rows = logits.detach().permute(0, 2, 3, 1).contiguous()
    grad = torch.zeros_like(rows) if with_gradient else rows.new_empty(0, 0, 0, 0)
    losses = np.zeros(images)
    factors = rows.new_ones(classes) if weights is None else weights.detach().to(rows).contiguous()
    table, counted, set_factors = _sets(members, set_weights, classes)
    axes = (tuple(axis(a, b, rows.dtype)) for a, b in zip(coarse, size, strict=True))
    tables = (factors.numpy(), table, counted, set_factors)
    flat = target.detach().contiguous().numpy().reshape(-1)
    shapes = (size, (*coarse, classes))
    x = rows.numpy().reshape(-1)
    run(_forward, images, images, *shapes, x, flat, tables, *axes, losses, grad.numpy().reshape(-1))
    return rows.new_tensor(float(losses.sum())), grad.permute(0, 3, 1, 2)


def _sets(
    members: Tensor | None, set_weights: Tensor | None, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return who belongs to each set, as padded rows of numbers; which sets count; and their factors."""
    if members is None or set_weights is None:
        return np.zeros(0, np.float32), np.zeros(0, np.bool_), np.zeros(0, np.float32)
    table = np.zeros((len(members), -(-classes // LANES) * LANES), np.float32)
    table[:, :classes] = members.numpy()
    return table.reshape(-1), members.any(dim=1).numpy(), set_weights.detach().float().contiguous().numpy()


def warm_up() -> None:
    """Compile the kernel, or load it from Numba's cache, and run it on one pixel."""
    forward(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64), None, None, None, True)
