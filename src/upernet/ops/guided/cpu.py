"""Guided labels on a CPU with Numba, a row of pixels at a time."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.threads import kernel, run, take

if TYPE_CHECKING:
    from upernet.ops.guided import Axis


@kernel
def _guide(counter, probabilities, winners, colors, photo, rows, columns, which, names, fall, labels, confidence):
    above, below, y_part = rows
    before, after, x_part = columns
    height, width = labels.shape
    cell_y, cell_x = np.empty(4, np.int64), np.empty(4, np.int64)
    bilinear, weights = np.empty(4, np.float32), np.empty(4, np.float32)
    while True:
        y = take(counter)
        if y >= height:
            return
        cell_y[0] = cell_y[1] = above[y]
        cell_y[2] = cell_y[3] = below[y]
        down = y_part[y]
        for x in range(width):
            if which[y, x] == 0:
                continue
            left, right = before[x], after[x]
            one, two = winners[above[y], left], winners[above[y], right]
            three, four = winners[below[y], left], winners[below[y], right]
            if which[y, x] == 1 and one == two and one == three and one == four:
                continue
            cell_x[0] = cell_x[2] = left
            cell_x[1] = cell_x[3] = right
            across = x_part[x]
            nearest = np.float32(np.inf)
            for i in range(4):
                difference = np.float32(0)
                for channel in range(3):
                    step = colors[cell_y[i], cell_x[i], channel] - np.float32(photo[y, x, channel])
                    difference += step * step
                vertical = np.float32(1) - down if i < 2 else down
                horizontal = np.float32(1) - across if i % 2 == 0 else across
                bilinear[i] = vertical * horizontal
                weights[i] = difference
                if bilinear[i] > 0:
                    nearest = min(nearest, difference)
            total = np.float32(0)
            for i in range(4):
                if bilinear[i] > 0:
                    weights[i] = np.sqrt(bilinear[i]) * np.exp((nearest - weights[i]) * fall)
                else:
                    weights[i] = 0
                total += weights[i]
            best, chosen = np.float32(-1), one
            for candidate in (one, two, three, four):
                if candidate == chosen and best >= 0:
                    continue
                score = np.float32(0)
                for i in range(4):
                    score += weights[i] * probabilities[cell_y[i], cell_x[i], candidate]
                if score > best:
                    best, chosen = score, candidate
            labels[y, x] = names[chosen]
            confidence[y, x] = best / total


def guide(
    probabilities: Tensor,
    winners: Tensor,
    colors: Tensor,
    photo: Tensor,
    rows: Axis,
    columns: Axis,
    which: Tensor,
    names: Tensor,
    sigma: float,
    labels: Tensor,
    confidence: Tensor,
) -> None:
    """Compute what `upernet.ops.guided.reference.guide` does."""
    arrays = [tensor.numpy() for tensor in (probabilities, winners, colors, photo)]
    axes = [tuple(tensor.numpy() for tensor in axis) for axis in (rows, columns)]
    rest = (which.numpy(), names.numpy(), np.float32(1 / (6 * sigma**2)))
    run(_guide, len(labels), *arrays, *axes, *rest, labels.numpy(), confidence.numpy())


def warm_up() -> None:
    """Compile the kernel, or load it from Numba's cache."""
    from upernet.ops.guided import Axis

    axis = Axis(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    cell, pixel = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3, dtype=torch.uint8)
    which, names = torch.full((1, 1), 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int16)
    labels, confidence = torch.zeros(1, 1, dtype=torch.int16), torch.zeros(1, 1)
    winners = torch.zeros(1, 1, dtype=torch.int64)
    guide(cell, winners, cell, pixel, axis, axis, which, names, 1.0, labels, confidence)
