"""Counts of (true class, predicted class) pairs, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from upernet.taxonomy import IGNORE


class ConfusionMatrix:
    """Streamed int64 counts over `num_classes` classes.

    `counts` is `num_classes` x (`num_classes` + 1): rows are the truth, columns the prediction; the last column counts
    labelled pixels for which nothing was predicted (prediction -1): they are missed, and are no class's false positive.

    Means are taken over the classes that occur in the truth or in the prediction (IoU), or in the truth (accuracy,
    which is undefined elsewhere). A class that was predicted and never occurs therefore counts as IoU 0; one that
    neither occurs nor was predicted does not count.

    Raises:
        ValueError: shapes differ, or a label lies outside -1 .. num_classes - 1.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count two integer tensors of the same shape, on any device; where the truth is -1 nothing is counted."""
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
        truth = truth.reshape(-1).to(prediction.device, torch.int64)
        labelled = truth != IGNORE
        truth, prediction = truth[labelled], prediction.reshape(-1)[labelled].to(torch.int64)
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
        """Add up the counts of all processes, in place, if torch.distributed is initialised. Call it once."""
        sum_over_processes(self.counts)
        return self

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        self.counts += other.counts
        return self

    @property
    def support(self) -> Tensor:
        """Labelled pixels per true class: int64, `num_classes`."""
        return self.counts.sum(1)

    @property
    def predicted(self) -> Tensor:
        """Predictions per class, at labelled pixels: int64, `num_classes`."""
        return self.counts[:, :-1].sum(0)

    @property
    def correct(self) -> Tensor:
        """Rightly predicted pixels per class: int64, `num_classes`."""
        return self.counts.diagonal()

    def iou(self) -> Tensor:
        """Intersection over union per class: float64, nan for a class in neither truth nor prediction."""
        union = self.support + self.predicted - self.correct
        return self.correct.double() / union

    def accuracy(self) -> Tensor:
        """Share of a true class's pixels that were found: float64, nan for a class that does not occur."""
        return self.correct.double() / self.support

    def pixel_accuracy(self, classes: Iterable[int] | None = None) -> float:
        """Share of the labelled pixels (of true `classes`; None: of all) that are right; nan without any."""
        chosen = self._chosen(classes)
        return float(self.correct[chosen].sum().double() / self.support[chosen].sum())

    def mean_iou(self, classes: Iterable[int] | None = None) -> float:
        """Mean IoU over those of `classes` (None: all) that occur in truth or prediction; nan if none does."""
        return float(self.iou()[self._chosen(classes)].nanmean())

    def mean_accuracy(self, classes: Iterable[int] | None = None) -> float:
        """Mean accuracy over those of `classes` (None: all) that occur in the truth; nan if none does."""
        return float(self.accuracy()[self._chosen(classes)].nanmean())

    def _chosen(self, classes: Iterable[int] | None) -> Tensor:
        return torch.tensor(list(range(self.num_classes) if classes is None else classes), dtype=torch.int64)


def sum_over_processes(counts: Tensor) -> None:
    """Replace the CPU tensor `counts` by its sum over all processes; without torch.distributed nothing happens."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    on_gpu = torch.distributed.get_backend() == "nccl"
    total = counts.cuda() if on_gpu else counts
    torch.distributed.all_reduce(total)
    counts.copy_(total)
