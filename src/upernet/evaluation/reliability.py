"""Reliability: how often predictions of a certain confidence are right, and the expected calibration error (ECE)."""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.distributed import sum_over_processes
from upernet.evaluation.results import ReliabilityBin

BINS = 15
"""Number of bins of equal width, as in arXiv 1706.04599."""
UNIT = 2**20
"""Confidences are summed as whole multiples of 1 / UNIT, so that the sum does not depend on the order."""


class Reliability:
    """A histogram of the confidence of predictions: `counts` is int64 3 x BINS.

    Its rows are the number of predictions, how many of them were right, and the sum of their confidences in `UNIT`s.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(3, BINS, dtype=torch.int64)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add predictions: their probabilities in 0..1, and whether they were right, of the same shape."""
        confidence = confidence.reshape(-1).double()
        bins = (confidence * BINS).long().clamp(0, BINS - 1)
        for row, weights in enumerate((None, correct.reshape(-1).double(), (confidence * UNIT).round())):
            self.counts[row] += torch.bincount(bins, weights, minlength=BINS).long().cpu()

    def __iadd__(self, other: Reliability) -> Reliability:
        """Add the counts of `other`."""
        self.counts += other.counts
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        sum_over_processes(self.counts)

    def bins(self) -> tuple[ReliabilityBin, ...]:
        """Return the bins from low to high confidence; their means are None where a bin is empty."""
        found: list[ReliabilityBin] = []
        for column in self.counts.unbind(1):
            count, correct, units = map(int, column)
            means = (units / UNIT / count, correct / count) if count else (None, None)
            found.append(ReliabilityBin(confidence=means[0], accuracy=means[1], count=count))
        return tuple(found)

    def ece(self) -> float | None:
        """Return the mean distance of confidence and accuracy over the bins, weighted by count; None without any."""
        count, correct, units = self.counts.double()
        return float((units / UNIT - correct).abs().sum() / count.sum()) if count.any() else None
