"""Guided labels in plain torch, for the pixels between cells with different labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from upernet.ops.guided import Axis


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
    """Compute `upernet.ops.guided.guided_labels`.

    Args:
        probabilities: See there, as for the other arguments.
        winners: int64 h x w; the most probable class of each cell.
        colors: See there.
        photo: See there.
        rows: See there.
        columns: See there.
        which: See there.
        names: See there.
        sigma: See `SIGMA_COLOR` there.
        labels: Changed.
        confidence: Changed.
    """
    width = winners.shape[1]
    corners = [
        i[:, None] * width + j for i in (rows.first, rows.second) for j in (columns.first, columns.second)
    ]  # of the cells around each pixel, H x W each
    flat = winners.reshape(-1)
    differ = torch.zeros_like(which, dtype=torch.bool)
    for corner in corners[1:]:
        differ |= flat[corner] != flat[corners[0]]
    y, x = torch.nonzero(((which == 1) & differ) | (which == 2), as_tuple=True)
    cells = torch.stack([corner[y, x] for corner in corners], dim=1)  # N x 4
    down, right = rows.part[y], columns.part[x]
    bilinear = torch.stack([a * b for a in (1 - down, down) for b in (1 - right, right)], dim=1)
    difference = ((colors.reshape(-1, 3)[cells] - photo[y, x, None].float()) ** 2).sum(dim=2)
    weights = (bilinear.log() / 2 - difference / (6 * sigma**2)).softmax(dim=1)
    candidates = flat[cells]
    values = probabilities.reshape(-1, probabilities.shape[2])[cells[:, :, None], candidates[:, None, :]]
    scores = (weights[:, :, None] * values).sum(dim=1)
    best, position = scores.max(dim=1)
    labels[y, x] = names[candidates.gather(1, position[:, None])[:, 0]]
    confidence[y, x] = best
