"""Thresholds of label maps in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from upernet.ops.thresholds import Owners


def apply(labels: Tensor, confidence: Tensor, thresholds: Tensor, below: int, owners: Owners | None) -> None:
    """Compute `upernet.ops.thresholds.apply_thresholds`.

    Args:
        labels: Changed; see there, as for the other arguments.
        confidence: See there.
        thresholds: See there.
        below: See there.
        owners: See there.
    """
    doubtful = confidence < thresholds[labels.long()]
    if owners is not None:
        unsure = owners.labels < 0
        doubtful &= owners.judged[owners.labels.clamp(min=0).long()]
        labels[unsure] = -1
        doubtful &= ~unsure
    labels[doubtful] = below
