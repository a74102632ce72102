"""The most probable label of each pixel, and probabilities, from logits that are interpolated bilinearly.

The interpolated logits of all classes would take far more memory than the label map, so they never exist together.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from torch import Tensor

from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.guided import Axis
from upernet.ops.runtime.availability import numba_unavailable
from upernet.ops.upsampled import reference


class OwnedChannels(NamedTuple):
    """The channels that count at the pixels of one owner."""

    owner: int
    first: int
    """The first of the channels, which follow each other."""
    names: Sequence[int]
    """Label of each channel."""


def upsampled_labels(
    logits: Tensor,
    rows: Axis,
    columns: Axis,
    labels: Tensor,
    confidence: Tensor,
    owners: Tensor | None = None,
    groups: Sequence[OwnedChannels] = (),
) -> None:
    """Write the label with the largest interpolated logit at each pixel, and its softmax probability.

    Args:
        logits: float32 K x h x w.
        rows: The logits above and below the H rows of pixels.
        columns: The logits to the left and right of the W columns of pixels.
        labels: int16 H x W, changed.
        confidence: float32 H x W, changed.
        owners: int16 H x W, from 0 on; the owner of each pixel, which says what channels the softmax runs over. Pixels
            whose owner has no group do not change. None: at each pixel, it runs over all channels, whose labels are
            their numbers.
        groups: The channels of each owner.
    """
    _kernels(logits).upsample(logits.contiguous(), rows, columns, labels, confidence, owners, groups)


def add_upsampled_probabilities(logits: Tensor, rows: Axis, columns: Axis, sums: Tensor) -> None:
    """Add the softmax of the interpolated logits to `sums`, as averages over several passes need it.

    The kernel is that of `upsampled_labels`.

    Args:
        logits: float32 K x h x w.
        rows: The logits above and below the H rows of pixels.
        columns: The logits to the left and right of the W columns of pixels.
        sums: float32 K x H x W, changed; neighbors in a row are neighbors in memory.
    """
    _kernels(logits).add_probabilities(logits.contiguous(), rows, columns, sums)


def choose_upsampled_labels(logits: Tensor) -> Choice:
    """Choose the kernel of `upsampled_labels`."""
    if kernel := override("upsampled_labels"):
        return Choice(kernel, OVERRIDDEN)
    if logits.device.type != "cpu":
        return Choice("torch", f"the logits are on {logits.device.type}")
    if reason := numba_unavailable("upsampled.cpu"):
        return Choice("torch", reason)
    return Choice("numba", "torch writes the interpolated logits of all classes to memory and reads them again")


def _kernels(logits: Tensor) -> ModuleType:
    kernel = decide("upsampled_labels", choose_upsampled_labels(logits), logits)
    if kernel == "torch":
        return reference
    if kernel == "numba":
        from upernet.ops.upsampled import cpu

        return cpu
    raise ValueError(f"upsampled_labels has no kernel {kernel}: choose from torch, numba")
