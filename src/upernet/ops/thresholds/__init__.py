"""Labels whose probability is below a threshold of their own, and labels inside owners that are unsure."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.runtime.availability import numba_unavailable
from upernet.ops.thresholds import reference

UNSURE = -1
"""Label of pixels that are unsure."""


class Owners(NamedTuple):
    """What the labels belong to."""

    labels: Tensor
    """int16 H x W; `UNSURE` or from 0 on. What an unsure owner has is unsure."""
    judged: Tensor
    """bool K; for each owner, whether the thresholds apply to its pixels."""


def apply_thresholds(
    labels: Tensor, confidence: Tensor, thresholds: Tensor, below: int = UNSURE, owners: Owners | None = None
) -> None:
    """Replace the labels whose probability is below the threshold of their class, in place.

    Args:
        labels: int16 H x W, from 0 on; changed.
        confidence: float32 H x W; their probabilities.
        thresholds: float32 K; the threshold of each class.
        below: The label that they get.
        owners: What the labels belong to. None: nothing.
    """
    kernel = decide("apply_thresholds", choose_apply_thresholds(), labels)
    if kernel == "torch":
        compute = reference.apply
    elif kernel == "numba":
        from upernet.ops.thresholds.cpu import apply as compute
    else:
        raise ValueError(f"apply_thresholds has no kernel {kernel}: choose from torch, numba")
    compute(labels, confidence, thresholds, below, owners)


def choose_apply_thresholds() -> Choice:
    """Choose the kernel of `apply_thresholds`."""
    if kernel := override("apply_thresholds"):
        return Choice(kernel, OVERRIDDEN)
    if reason := numba_unavailable("thresholds.cpu"):
        return Choice("torch", reason)
    return Choice("numba", "torch reads the label map several times, and converts it to int64")
