"""Boundary IoU: the IoU of the pixels near the contours of true and predicted regions (arXiv 2103.16562)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from upernet.distributed import sum_over_processes
from upernet.taxonomy import IGNORE

DILATION_RATIO = 0.02
"""Width of the boundary as a share of the photo's diagonal: that of the paper (section 4)."""
NOTHING = torch.iinfo(torch.int16).min
"""Value that loses every comparison."""


class BoundaryCounts:
    """Counts of boundary pixels per class, added up photo by photo.

    The boundary of a class is the set of its pixels that have a pixel of another class, or the edge of the photo,
    within `boundary_width` rows and columns. The Boundary IoU of a class is the number of pixels in both its true and
    its predicted boundary, divided by the number of those in either. The counts are added up over photos first, as for
    the IoU. What the labels call unknown neither counts nor makes a boundary.

    `counts` is int64 3 x `num_classes`: pixels of the true boundary, of the predicted boundary, and of both.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, truth: Tensor, counted: Tensor) -> None:
        """Add one photo.

        Args:
            prediction: Labels H x W, integers from -1 (no prediction), on any device.
            truth: Labels H x W, integers from -1 (unknown).
            counted: bool H x W, the pixels to count; their truth is known.
        """
        known, width = truth != IGNORE, boundary_width(truth.shape[-2], truth.shape[-1])
        true = boundary(truth, known, width) & counted
        predicted = boundary(prediction, known, width) & counted & (prediction != IGNORE)
        both = true & predicted & (truth == prediction)
        for row, labels in enumerate((truth[true], prediction[predicted], truth[both])):
            self.counts[row] += torch.bincount(labels.long(), minlength=self.counts.shape[1]).cpu()

    def __iadd__(self, other: BoundaryCounts) -> BoundaryCounts:
        """Add the counts of `other`."""
        self.counts += other.counts
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        sum_over_processes(self.counts)

    def iou(self) -> Tensor:
        """Return the Boundary IoU per class: float64, nan for classes in neither truth nor prediction."""
        true, predicted, both = self.counts
        return both.double() / (true + predicted - both)


def boundary_width(height: int, width: int) -> int:
    """Return the width of the boundary in pixels: 2 % of the diagonal, rounded, and at least 1."""
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def boundary(labels: Tensor, known: Tensor, width: int) -> Tensor:
    """Return the pixels that have a known pixel with another label, or the edge of the photo, within `width`.

    A window of `2 * width + 1` rows and columns holds one label alone if its largest and its smallest are the same.

    Args:
        labels: int H x W.
        known: bool H x W.
        width: Distance in rows and in columns, 1 or more.

    Returns:
        bool H x W; it means nothing where `known` is false.
    """
    near = torch.ones_like(known)
    inner = (slice(width, -width), slice(width, -width))
    if near[inner].numel() == 0:
        return near
    both_signs = torch.stack([labels, -labels]).to(torch.int16).masked_fill_(~known, NOTHING)
    largest, smallest = _window_max(_window_max(both_signs, 1, 2 * width + 1), 2, 2 * width + 1)
    near[inner] = largest != -smallest
    return near


def _window_max(values: Tensor, dim: int, window: int) -> Tensor:
    """Return the maximum of each `window` of values along `dim`, in about log2(window) steps."""
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        length = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        covered += step
    return values
