"""Confusion matrices, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from upernet.distributed import sum_over_processes
from upernet.recipe import MetricRules
from upernet.taxonomy import IGNORE

PUBLISHED_EPSILON = 1e-8
"""What the released code adds to each union."""


class ConfusionMatrix:
    """Counts of (true class, predicted class) pairs, added up photo by photo.

    `counts` is int64, `num_classes` x (`num_classes` + 1): one row per true class, one column per predicted class, and
    a last column for labeled pixels without a prediction (-1), which are missed but are no class's false positives.

    Means run over the classes that occur in the truth or in the prediction (IoU) or in the truth (accuracy, which is
    undefined for other classes). So a class that is predicted but never occurs counts with an IoU of 0, and a class
    that neither occurs nor is predicted does not count.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count the pixels of two integer tensors of the same shape, on any device; a truth of -1 is left out.

        Raises:
            ValueError: The shapes differ, or a label is not between -1 and `num_classes` - 1.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
        truth = truth.reshape(-1).to(prediction.device, torch.int64)
        labeled = truth != IGNORE
        truth, prediction = truth[labeled], prediction.reshape(-1)[labeled].to(torch.int64)
        if truth.numel() == 0:
            return
        for name, labels in (("truth", truth), ("prediction", prediction)):
            low, high = int(labels.min()), int(labels.max())
            if low < IGNORE or high >= self.num_classes:
                raise ValueError(f"{name} holds labels {low} to {high}; expected -1 to {self.num_classes - 1}")
        columns = self.num_classes + 1
        prediction = torch.where(prediction == IGNORE, self.num_classes, prediction)
        pairs = torch.bincount(truth * columns + prediction, minlength=self.num_classes * columns)
        self.counts += pairs.view(self.num_classes, columns).cpu()

    def reduce(self) -> ConfusionMatrix:
        """Replace the counts by their sum over all processes; call it once."""
        sum_over_processes(self.counts)
        return self

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of `other`."""
        self.counts += other.counts
        return self

    @property
    def support(self) -> Tensor:
        """Number of labeled pixels per true class: int64, `num_classes`."""
        return self.counts.sum(1)

    @property
    def predicted(self) -> Tensor:
        """Number of labeled pixels per predicted class: int64, `num_classes`."""
        return self.counts[:, :-1].sum(0)

    @property
    def correct(self) -> Tensor:
        """Number of correctly predicted pixels per class: int64, `num_classes`."""
        return self.counts.diagonal()

    def iou(self, rules: MetricRules = "standard") -> Tensor:
        """Return the intersection over union per class: float64, nan for classes in neither truth nor prediction.

        By the rules `published`, it is 0 for those classes.
        """
        union = (self.support + self.predicted - self.correct).double()
        return self.correct.double() / (union + PUBLISHED_EPSILON if rules == "published" else union)

    def accuracy(self) -> Tensor:
        """Return the share of each true class's pixels that is predicted correctly: float64, nan for absent classes."""
        return self.correct.double() / self.support

    def precision(self) -> Tensor:
        """Return the share of each predicted class's pixels that is correct: float64, nan where there is none."""
        return self.correct.double() / self.predicted

    def f1(self) -> Tensor:
        """Return the F1 score per class, also called Dice: float64, nan for classes in neither truth nor prediction."""
        return 2 * self.correct.double() / (self.support + self.predicted)

    def pixel_accuracy(self, classes: Iterable[int] | None = None) -> float:
        """Return the share of the labeled pixels that is predicted correctly; nan if there are none.

        Args:
            classes: True classes whose pixels count; None: all.
        """
        indices = self._indices(classes)
        return float(self.correct[indices].sum().double() / self.support[indices].sum())

    def mean_iou(self, classes: Iterable[int] | None = None, rules: MetricRules = "standard") -> float:
        """Return the mean IoU of those of `classes` (None: all) that occur in truth or prediction; nan if none does.

        By the rules `published`, it is the mean of all `classes`.
        """
        return float(self.iou(rules)[self._indices(classes)].nanmean())

    def mean_accuracy(self, classes: Iterable[int] | None = None) -> float:
        """Return the mean accuracy of those of `classes` (None: all) that occur in the truth; nan if none does."""
        return float(self.accuracy()[self._indices(classes)].nanmean())

    def _indices(self, classes: Iterable[int] | None) -> Tensor:
        return torch.tensor(list(range(self.num_classes) if classes is None else classes), dtype=torch.int64)
