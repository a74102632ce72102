"""Smoothing of labels over time: an average of the logits of frames that follows the motion in the picture.

Each frame's logits are averaged with the average before, which is first moved to where its things are now. Where the
frame does not look like what was moved there (something appears, or the scene is cut), the past counts less, down to
nothing. docs/video.md shows what each step is worth.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from upernet.decoding import STRIDE

REACH = 4
"""Largest motion between two frames in cells of the logits, up, down and sideways."""
BLOCK = 7
"""Side of the square of cells that is compared to find the motion of the cell in its middle."""
STILLNESS = 0.3
"""Difference of gray levels, per cell of motion, that must speak for a motion."""
DIFFERENCE = 12.0
"""Mean difference of gray levels at which the past has lost all but 1/e of its weight."""


class Smoother:
    """The average of the logits of the frames so far, for one video.

    Args:
        weight: Weight of the past, from 0 to below 1, where the picture is as before.
    """

    def __init__(self, weight: float):
        self.weight = weight
        self._averages: dict[str, Tensor] = {}
        self._cells: Tensor | None = None
        self._image_cells: Tensor | None = None

    def image_labels(self, logits: dict[str, Tensor], view: Image.Image) -> dict[str, Tensor]:
        """Return the averaged logits of the labels of the whole frame: level -> float32 K.

        Args:
            logits: level -> float32 K, of the next frame.
            view: The frame as it went through the network.
        """
        cells = gray_cells(view)
        before, self._image_cells = self._image_cells, cells
        same = None if before is None or before.shape != cells.shape else likeness(cells, before).mean()
        return {level: self._average(level, values, None, same) for level, values in logits.items()}

    def dense(self, logits: dict[str, Tensor], view: Image.Image) -> dict[str, Tensor]:
        """Return the averaged logits of dense levels.

        Args:
            logits: level -> float32 K x h x w, of the next frame, as `upernet.inference.tiling.dense_logits` returns
                them.
            view: The frame as it went through the network.
        """
        height, width = next(iter(logits.values())).shape[-2:]
        cells = gray_cells(view)
        missing = 0, width - cells.shape[1], 0, height - cells.shape[0]  # the padding of the network's input
        cells = F.pad(cells[None, None], missing, mode="replicate")[0, 0]
        before, self._cells = self._cells, cells
        motion = same = None
        if before is not None and before.shape == cells.shape:
            motion = find_motion(cells, before)
            same = likeness(cells, moved(before[None], motion)[0])
        return {level: self._average(level, values, motion, same) for level, values in logits.items()}

    def _average(self, level: str, values: Tensor, motion: Tensor | None, same: Tensor | None) -> Tensor:
        before = self._averages.get(level)
        if before is not None and before.shape == values.shape and same is not None:
            past = before if motion is None else moved(before, motion)
            values = torch.lerp(values, past, self.weight * same)
        self._averages[level] = values
        return values


def gray_cells(view: Image.Image) -> Tensor:
    """Return the mean gray level of each cell of the logits, in 0..255: float32 h x w."""
    return torch.as_tensor(np.array(view.convert("L").reduce(STRIDE), np.float32))


def find_motion(cells: Tensor, before: Tensor) -> Tensor:
    """Find where the things of a frame were in the frame before, by block matching.

    Each cell takes the displacement of up to `REACH` cells with the smallest mean difference of gray levels over a
    block of `BLOCK` x `BLOCK` cells around it, refined by the vertex of a parabola through its neighbors.

    Args:
        cells: float32 h x w, gray levels of the frame.
        before: float32 h x w, gray levels of the frame before.

    Returns:
        float32 2 x h x w: rows and columns to add to a cell of the frame to get the place before.
    """
    height, width = cells.shape
    side = 2 * REACH + 1
    padded = F.pad(before[None, None], (REACH,) * 4, mode="replicate")
    shifted = F.unfold(padded, side).view(side * side, height, width)
    cost = F.avg_pool2d((shifted - cells).abs_()[:, None], BLOCK, 1, BLOCK // 2, count_include_pad=False)[:, 0]
    steps = torch.arange(-REACH, REACH + 1)
    distance = torch.hypot(*torch.meshgrid(steps.float(), steps.float(), indexing="ij"))
    cost = cost.view(side, side, height, width) + STILLNESS * distance[..., None, None]
    best = cost.flatten(0, 1).argmin(dim=0)
    row, column = best // side, best % side
    rows = row - REACH + _vertex(cost.gather(1, column.expand(side, 1, -1, -1))[:, 0], row)
    columns = column - REACH + _vertex(cost.gather(0, row.expand(1, side, -1, -1))[0], column)
    still = (row == REACH) & (column == REACH)  # what stands still is not interpolated, which would blur it
    return torch.where(still, 0.0, torch.stack([rows, columns]))


def moved(values: Tensor, motion: Tensor) -> Tensor:
    """Return K x h x w values at the places that `motion` says, interpolated; values at the edges are repeated."""
    height, width = values.shape[-2:]
    rows = 2 * (torch.arange(height)[:, None] + motion[0] + 0.5) / height - 1
    columns = 2 * (torch.arange(width) + motion[1] + 0.5) / width - 1
    grid = torch.stack([columns, rows], dim=-1)[None]
    return F.grid_sample(values[None], grid, padding_mode="border", align_corners=False)[0]


def likeness(cells: Tensor, before: Tensor) -> Tensor:
    """Return how much each cell looks like before, from 0 to 1: float32 h x w."""
    difference = F.avg_pool2d((cells - before).abs()[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    return torch.exp(-difference / DIFFERENCE)


def _vertex(cost: Tensor, best: Tensor) -> Tensor:
    """Return how far the vertex of the parabola through three costs is from the middle one, in -0.5..0.5.

    Args:
        cost: float32 n x h x w.
        best: int64 h x w, the smallest cost; at the first and the last one, the result is 0.
    """
    inner = best.clamp(1, len(cost) - 2)
    lower, middle, upper = (cost.gather(0, (inner + step)[None])[0] for step in (-1, 0, 1))
    curvature = lower - 2 * middle + upper
    offset = ((lower - upper) / (2 * curvature)).clamp_(-0.5, 0.5)
    return torch.where((inner == best) & (curvature > 1e-3), offset, 0.0)
