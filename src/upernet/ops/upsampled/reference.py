"""Labels and probabilities from interpolated logits in plain torch, some rows of pixels at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from upernet.ops.guided import Axis
    from upernet.ops.upsampled import OwnedChannels

STRIP_VALUES = 1_000_000
"""Upper limit of the interpolated logits that are in memory at a time."""


def upsample(
    logits: Tensor,
    rows: Axis,
    columns: Axis,
    labels: Tensor,
    confidence: Tensor,
    owners: Tensor | None,
    groups: Sequence[OwnedChannels],
) -> None:
    """Compute `upernet.ops.upsampled.upsampled_labels`.

    Args:
        logits: See there, as for the other arguments.
        rows: See there.
        columns: See there.
        labels: Changed.
        confidence: Changed.
        owners: See there.
        groups: See there.
    """
    height, width = labels.shape
    strip = max(1, STRIP_VALUES // (len(logits) * width))
    for top in range(0, height, strip):
        part = slice(top, min(top + strip, height))
        of_part = type(rows)(*(values[part] for values in rows))
        if owners is None:
            found, confidence[part] = most_probable(interpolate(logits, of_part, columns))
            labels[part] = found.to(labels.dtype)
            continue
        for group in groups:
            owned = owners[part] == group.owner
            if owned.any():
                own = logits[group.first : group.first + len(group.names)]
                found, probability = most_probable(interpolate(own, of_part, columns)[:, owned])
                labels[part][owned] = torch.tensor(group.names, dtype=labels.dtype)[found]
                confidence[part][owned] = probability


def add_probabilities(logits: Tensor, rows: Axis, columns: Axis, sums: Tensor) -> None:
    """Compute `upernet.ops.upsampled.add_upsampled_probabilities`."""
    height, width = sums.shape[1:]
    strip = max(1, STRIP_VALUES // (len(logits) * width))
    for top in range(0, height, strip):
        part = slice(top, min(top + strip, height))
        sums[:, part] += interpolate(logits, type(rows)(*(values[part] for values in rows)), columns).softmax(dim=0)


def most_probable(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of the largest of K x ... logits, int64, and their softmax probabilities."""
    largest, numbers = logits.max(dim=0)
    return numbers, 1 / (logits - largest).exp_().sum(dim=0)


def interpolate(logits: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Interpolate K x h x w logits at rows and columns of pixels: K x H x W."""
    first, last = int(rows.first[0]), int(rows.second[-1])
    logit_rows = logits[:, first : last + 1]
    left, right = (logit_rows.index_select(2, index.to(logits.device)) for index in (columns.first, columns.second))
    widened = torch.lerp(left, right, columns.part.to(logits.device))
    # A matrix product interpolates the rows several times faster than gathering them.
    weights = torch.zeros(len(rows.first), last + 1 - first)
    row = torch.arange(len(rows.first))
    weights[row, rows.second - first] = rows.part
    weights[row, rows.first - first] += 1 - rows.part
    return torch.matmul(weights.to(logits.device), widened)
