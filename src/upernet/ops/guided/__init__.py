"""Labels that follow the edges of the photo, where neighboring cells of a coarse map have different labels.

Joint bilateral upsampling (Kopf et al., SIGGRAPH 2007) of the probabilities of the classes that win in the four cells
around a pixel: a cell's weight is the root of its bilinear weight, times a factor that falls with the difference
between its mean color and that of the pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.guided import reference
from upernet.ops.runtime.availability import numba_unavailable

SIGMA_COLOR = 15.0
"""Difference of color, as the root mean square over the channels of 0..255, by which a weight falls to exp(-1/2)."""


class Axis(NamedTuple):
    """The two cells beside each pixel along one side of the photo."""

    first: Tensor
    """int64: Index of the cell above, or to the left."""
    second: Tensor
    """int64: Index of the cell below, or to the right; at the edges, that of `first`."""
    part: Tensor
    """float32: Distance from the first cell, in cells."""


def guided_labels(
    probabilities: Tensor,
    colors: Tensor,
    photo: Tensor,
    rows: Axis,
    columns: Axis,
    which: Tensor,
    names: Tensor,
    labels: Tensor,
    confidence: Tensor,
) -> None:
    """Replace labels and their probabilities, in place, where the four cells around a pixel have different labels.

    Args:
        probabilities: float32 h x w x K, contiguous; probabilities of the classes in each cell.
        colors: float32 h x w x 3; mean color of each cell in 0..255.
        photo: uint8 H x W x 3.
        rows: The cells above and below the H rows.
        columns: The cells to the left and right of the W columns.
        which: uint8 H x W: 0 where labels stay, 1 where they follow the edges, 2 where they are replaced also if all
            four cells have one label.
        names: int16 K; label of each class.
        labels: int16 H x W, changed.
        confidence: float32 H x W, changed: the weighted mean of the label's probability in the four cells.
    """
    kernel = decide("guided_labels", choose_guided_labels(probabilities), probabilities)
    if kernel == "torch":
        compute = reference.guide
    elif kernel == "numba":
        from upernet.ops.guided.cpu import guide as compute
    else:
        raise ValueError(f"guided_labels has no kernel {kernel}: choose from torch, numba")
    winners = probabilities.max(dim=2).indices  # takes half the time of argmax
    compute(probabilities, winners, colors, photo, rows, columns, which, names, SIGMA_COLOR, labels, confidence)


def choose_guided_labels(probabilities: Tensor) -> Choice:
    """Choose the kernel of `guided_labels`."""
    if kernel := override("guided_labels"):
        return Choice(kernel, OVERRIDDEN)
    if probabilities.device.type != "cpu" or probabilities.dtype != torch.float32:
        return Choice("torch", f"there is no other kernel for {probabilities.dtype} on {probabilities.device.type}")
    if reason := numba_unavailable("guided.cpu"):
        return Choice("torch", reason)
    return Choice("numba", "torch gathers the four cells of each pixel several times")
