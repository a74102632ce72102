"""Thresholds of label maps on a CPU with Numba."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.threads import kernel, run, take

if TYPE_CHECKING:
    from upernet.ops.thresholds import Owners


@kernel
def _apply(counter, labels, confidence, thresholds, below, owners, judged):
    height, width = labels.shape
    while True:
        y = take(counter)
        if y >= height:
            return
        for x in range(width):
            owner = owners[y, x] if owners.size else 0
            if owner < 0:
                labels[y, x] = -1
            elif confidence[y, x] < thresholds[labels[y, x]] and judged[owner]:
                labels[y, x] = below


def apply(labels: Tensor, confidence: Tensor, thresholds: Tensor, below: int, owners: Owners | None) -> None:
    """Compute what `upernet.ops.thresholds.reference.apply` does."""
    whose, judged = np.zeros((0, 0), np.int16), np.ones(1, np.bool_)
    if owners is not None:
        whose, judged = owners.labels.numpy(), owners.judged.numpy()
    arrays = labels.numpy(), confidence.numpy(), thresholds.numpy()
    run(_apply, len(labels), *arrays, np.int16(below), whose, judged)


def warm_up() -> None:
    """Compile the kernel, or load it from Numba's cache."""
    apply(torch.zeros(2, 2, dtype=torch.int16), torch.zeros(2, 2), torch.zeros(1), -1, None)
