"""Scores per level of perception, accumulated one photo at a time.

Accumulators take the outputs of the network for one photo (logits or probabilities, 1 x K x h x w; scene: 1 x K) and
its annotations. They add up over photos, over accumulators (`+=`) and over processes (`reduce`), and end in typed
metrics. `Scores` of a single photo tell what was counted in it (`Scores.confusion`).
The background class of a level (label 0 where `level.background`) has no score of its own, and a prediction of it is a
miss. Its pixels are left out or, where `level.known_background`, they show which predictions are false positives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from upernet.distributed import sum_over_processes
from upernet.evaluation.boundary import BoundaryCounts
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.evaluation.photo_counts import NOT_SCORED, Confusion, Kind
from upernet.evaluation.reliability import Reliability
from upernet.evaluation.results import (
    LabelClassMetrics,
    LabelMetrics,
    PixelClassMetrics,
    PixelMetrics,
)
from upernet.recipe import MetricRules
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Level

TOP_K = 5
"""Number of candidates of the top-5 accuracy."""


class PixelScore:
    """Score of a level that is annotated with label maps: mIoU, pixel accuracy, mean accuracy, and per class.

    The Boundary IoU is measured as well, and the calibration of the confidences if they are given.
    """

    kind: Kind = "pixels"

    def __init__(self, level: Level, rules: MetricRules = "standard") -> None:
        self.level = level
        self.rules: MetricRules = rules
        self.labels: frozenset[int] | None = None
        """The labels that means run over; None: all."""
        self.matrix = ConfusionMatrix(level.num_classes)
        self.boundary = BoundaryCounts(level.num_classes)
        self.reliability = Reliability()

    def update(self, prediction: Tensor, truth: Tensor, confidence: Tensor | None = None) -> None:
        """Add one photo: integer label maps H x W, and the confidences of the prediction; a truth of -1 is left out."""
        counted = truth > 0 if self.level.unknown_background else truth != IGNORE
        self.matrix.update(prediction, torch.where(counted, truth, IGNORE))
        self.boundary.update(prediction, truth, counted)
        if confidence is not None:
            self.reliability.update(confidence[counted], (prediction == truth)[counted])

    def __iadd__(self, other: PixelScore) -> PixelScore:
        """Add the photos of `other`."""
        self.matrix += other.matrix
        self.boundary += other.boundary
        self.reliability += other.reliability
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        self.matrix.reduce()
        self.boundary.reduce()
        self.reliability.reduce()

    def confusion(self) -> Confusion:
        """Return what was counted."""
        return Confusion(self.matrix, self.level.names, _one_group(self.level))

    def result(self) -> PixelMetrics | None:
        """Return the metrics; None if no pixel was labeled."""
        matrix = self.matrix
        classes = [c for c in scored_classes(self.level) if self.labels is None or c in self.labels]
        if not matrix.support[classes].any():
            return None
        boundary = numbers(self.boundary.iou())
        per_class = [
            metrics.model_copy(update={"boundary_iou": iou})
            for metrics, iou in zip(class_metrics(matrix), boundary, strict=True)
        ]
        return PixelMetrics(
            miou=number(matrix.mean_iou(classes, self.rules)),
            pixel_accuracy=number(matrix.pixel_accuracy(classes)),
            mean_accuracy=number(matrix.mean_accuracy(classes)),
            boundary_miou=mean(boundary[c] for c in classes),
            ece=self.reliability.ece(),
            classes_absent=tuple(self.level.names[c] for c in classes if per_class[c].iou is None),
            per_class={self.level.names[c]: per_class[c] for c in classes},
            reliability=self.reliability.bins(),
        )


class LabelScore:
    """Score of a level that is annotated with image labels: top-1 and (scene) top-5 accuracy, and per class."""

    kind: Kind = "labels"

    def __init__(self, level: Level) -> None:
        self.level = level
        self.matrix = ConfusionMatrix(level.num_classes)
        self.in_top5 = torch.zeros(level.num_classes, dtype=torch.int64)
        self.reliability = Reliability()

    def update(self, scores: Tensor, truth: int, probabilities: bool = False) -> None:
        """Add one photo: K scores (see `image_scores`), among which the background does not compete, and its label.

        The confidence is the largest softmax probability, or the largest of `scores` if they are `probabilities`.
        """
        if truth == IGNORE or (self.level.background and truth == 0):
            return
        first = 1 if self.level.background else 0
        candidates = scores[first:].float().cpu()
        ranked = candidates.argsort(descending=True, stable=True) + first
        correct = ranked[:1] == truth
        self.matrix.update(ranked[:1], torch.tensor([truth]))
        self.in_top5[truth] += int((ranked[:TOP_K] == truth).any())
        shares = class_probabilities(scores, self.level, probabilities)
        self.reliability.update(shares.amax()[None], correct)

    def __iadd__(self, other: LabelScore) -> LabelScore:
        """Add the photos of `other`."""
        self.matrix += other.matrix
        self.in_top5 += other.in_top5
        self.reliability += other.reliability
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        self.matrix.reduce()
        sum_over_processes(self.in_top5)
        self.reliability.reduce()

    def confusion(self) -> Confusion:
        """Return what was counted."""
        return Confusion(self.matrix, self.level.names, _one_group(self.level))

    def result(self) -> LabelMetrics | None:
        """Return the metrics; None if no photo was labeled."""
        photos = self.matrix.support
        if not photos.any():
            return None
        top1, top5 = numbers(self.matrix.accuracy()), numbers(self.in_top5.double() / photos)
        classes = scored_classes(self.level)
        if LEVEL_KINDS[self.level.name].dense:
            summary: dict[str, float | None] = {}
            per_class = {c: LabelClassMetrics(top1=top1[c], photos=int(photos[c])) for c in classes}
        else:
            summary = {"top5": number(float(self.in_top5.sum().double() / photos.sum()))}
            per_class = {c: LabelClassMetrics(top1=top1[c], top5=top5[c], photos=int(photos[c])) for c in classes}
        return LabelMetrics(
            top1=number(self.matrix.pixel_accuracy()),
            **summary,
            top1_ece=self.reliability.ece(),
            per_class={self.level.names[c]: metrics for c, metrics in per_class.items()},
            top1_reliability=self.reliability.bins(),
        )


def scored_classes(level: Level) -> list[int]:
    """Return the labels of `level` without its background."""
    return list(range(1 if level.background else 0, level.num_classes))


def class_probabilities(scores: Tensor, level: Level, probabilities: bool) -> Tensor:
    """Return the probabilities of the classes of a photo, among which the background does not compete: float32 K.

    Args:
        scores: K scores, see `image_scores`.
        level: The level.
        probabilities: Whether `scores` are probabilities instead of logits.
    """
    first = 1 if level.background else 0
    candidates = scores[first:].float().cpu()
    shares = candidates / candidates.sum() if probabilities else candidates.softmax(0)
    return torch.cat([torch.zeros(first), shares])


def scores_are_probabilities(outputs: Tensor, supervision: str, averaged: bool) -> bool:
    """Return whether `image_scores(outputs, supervision)` are probabilities; `averaged`: whether `outputs` are."""
    return averaged or (outputs.ndim == 4 and supervision == "broadcast")


def _one_group(level: Level) -> tuple[int, ...]:
    return tuple(NOT_SCORED if level.background and c == 0 else 0 for c in range(level.num_classes))


def class_metrics(matrix: ConfusionMatrix) -> list[PixelClassMetrics]:
    """Return the metrics of each class of a confusion matrix."""
    values = zip(numbers(matrix.iou()), numbers(matrix.accuracy()), matrix.support.unbind(), strict=True)
    return [PixelClassMetrics(iou=iou, accuracy=accuracy, pixels=int(pixels)) for iou, accuracy, pixels in values]


def number(value: float) -> float | None:
    """Return `value`, or None for nan, which JSON does not have."""
    return None if math.isnan(value) else value


def numbers(values: Tensor) -> list[float | None]:
    """Return the values of a one-dimensional tensor, with None for nan."""
    return [number(float(value)) for value in values.unbind()]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
