"""Scores per level of perception, accumulated one photo at a time.

Accumulators take the outputs of the network for one photo (logits or probabilities, 1 x K x h x w; scene: 1 x K) and
its annotations. They add up over photos, over accumulators (`+=`) and over processes (`reduce`), and end in typed
metrics.
The background class of a level (label 0 where `level.background`) is never scored: its pixels are left out, and
elsewhere a prediction of it is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from upernet.data.sample import Sample
from upernet.decoding import Size, image_scores, label_map
from upernet.distributed import sum_over_processes
from upernet.errors import UpernetError
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.evaluation.results import (
    LabelClassMetrics,
    LabelMetrics,
    LevelMetrics,
    ObjectMetrics,
    PartMetrics,
    PixelClassMetrics,
    PixelMetrics,
)
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Level, Taxonomy

TOP_K = 5
"""Number of candidates of the top-5 accuracy."""


class PixelScore:
    """Score of a level that is annotated with label maps: mIoU, pixel accuracy, mean accuracy, and per class."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.matrix = ConfusionMatrix(level.num_classes)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add one photo: integer label maps H x W; pixels whose truth is -1 are left out."""
        if self.level.background:
            truth = torch.where(truth == 0, IGNORE, truth)
        self.matrix.update(prediction, truth)

    def __iadd__(self, other: PixelScore) -> PixelScore:
        """Add the photos of `other`."""
        self.matrix += other.matrix
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        self.matrix.reduce()

    def result(self) -> PixelMetrics | None:
        """Return the metrics; None if no pixel was labeled."""
        matrix = self.matrix
        classes = scored_classes(self.level)
        if not matrix.support[classes].any():
            return None
        per_class = class_metrics(matrix)
        return PixelMetrics(
            miou=number(matrix.mean_iou(classes)),
            pixel_accuracy=number(matrix.pixel_accuracy(classes)),
            mean_accuracy=number(matrix.mean_accuracy(classes)),
            classes_absent=tuple(self.level.names[c] for c in classes if per_class[c].iou is None),
            per_class={self.level.names[c]: per_class[c] for c in classes},
        )


class LabelScore:
    """Score of a level that is annotated with image labels: top-1 and (scene) top-5 accuracy, and per class."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.matrix = ConfusionMatrix(level.num_classes)
        self.in_top5 = torch.zeros(level.num_classes, dtype=torch.int64)

    def update(self, scores: Tensor, truth: int) -> None:
        """Add one photo: K scores (see `image_scores`), among which the background does not compete, and its label."""
        if truth == IGNORE or (self.level.background and truth == 0):
            return
        first = 1 if self.level.background else 0
        ranked = scores[first:].argsort(descending=True, stable=True).cpu() + first
        self.matrix.update(ranked[:1], torch.tensor([truth]))
        self.in_top5[truth] += int((ranked[:TOP_K] == truth).any())

    def __iadd__(self, other: LabelScore) -> LabelScore:
        """Add the photos of `other`."""
        self.matrix += other.matrix
        self.in_top5 += other.in_top5
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        self.matrix.reduce()
        sum_over_processes(self.in_top5)

    def result(self) -> LabelMetrics | None:
        """Return the metrics; None if no photo was labeled."""
        photos = self.matrix.support
        if not photos.any():
            return None
        top1, top5 = numbers(self.matrix.accuracy()), numbers(self.in_top5.double() / photos)
        has_top5 = not LEVEL_KINDS[self.level.name].dense
        return LabelMetrics(
            top1=number(self.matrix.pixel_accuracy()),
            top5=number(float(self.in_top5.sum().double() / photos.sum())) if has_top5 else None,
            per_class={
                self.level.names[c]: LabelClassMetrics(
                    top1=top1[c], top5=top5[c] if has_top5 else None, photos=int(photos[c])
                )
                for c in scored_classes(self.level)
            },
        )


class PartScore:
    """Score of parts, each within the object that owns it (arXiv 1807.10221, section 4.1: mIoU-bg).

    For every object with parts, over the photos in which at least one of its parts is annotated: the truth is the part
    map inside the true object and "no part" elsewhere; the prediction is the most probable of that object's parts where
    the *predicted* object is that object, and "no part" elsewhere. So a part that is predicted outside its object, or
    on an object pixel without an annotated part, counts against it. Pixels whose true object or part is unknown are
    left out.

    * `miou`: mean IoU of an object's parts without "no part", then mean over the objects.
    * `miou_with_background`: the same with "no part" as one more class of each object.
    * `pixel_accuracy`, `mean_accuracy`: over the pixels that show a listed part; mean over the objects.
    * `miou_given_object`: like `miou`, but only inside the true object, and whatever object is predicted there. It
      measures how well parts are told apart where objects are not annotated.
    """

    def __init__(self, taxonomy: Taxonomy, level: str = "part") -> None:
        self.level = taxonomy.level(level)
        self.owners = taxonomy.level(LEVEL_KINDS[level].owned_by or level)
        self.groups = taxonomy.part_groups
        self.found = [ConfusionMatrix(len(group.parts)) for group in self.groups]
        self.given = [ConfusionMatrix(len(group.parts)) for group in self.groups]

    def update(
        self, logits: Tensor, prediction: Tensor, objects: Tensor, parts: Tensor, via_sizes: Sequence[Size] = ()
    ) -> None:
        """Add one photo.

        Args:
            logits: Part logits, 1 x (sum of the part groups) x h x w.
            prediction: Predicted objects, int H x W.
            objects: True objects, int H x W; -1: unknown.
            parts: True parts as labels of the level, int H x W; -1: unknown.
            via_sizes: See `Scores.update`.
        """
        size = (parts.shape[-2], parts.shape[-1])
        for group, found, given in zip(self.groups, self.found, self.given, strict=True):
            inside = objects == group.owner
            local = torch.full_like(parts, IGNORE)
            for index, part in enumerate(group.parts):
                local[inside & (parts == part)] = index
            if not (local > 0).any():
                continue
            most_probable = label_map(logits[:, group.channels], size, via_sizes)
            given.update(most_probable, local)
            local[~inside & (objects != IGNORE)] = 0
            found.update(torch.where(prediction == group.owner, most_probable, 0), local)

    def __iadd__(self, other: PartScore) -> PartScore:
        """Add the photos of `other`."""
        for matrix, added in zip(self.found + self.given, other.found + other.given, strict=True):
            matrix += added
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        for matrix in self.found + self.given:
            matrix.reduce()

    def result(self) -> PartMetrics | None:
        """Return the metrics; None if no part was annotated."""
        per_object: dict[str, ObjectMetrics] = {}
        per_class: dict[str, PixelClassMetrics] = {}
        for group, found, given in zip(self.groups, self.found, self.given, strict=True):
            listed = range(1, len(group.parts))
            if not found.support[1:].any():
                continue
            owner = self.owners.names[group.owner]
            per_object[owner] = ObjectMetrics(
                miou=number(found.mean_iou(listed)),
                miou_with_background=number(found.mean_iou()),
                pixel_accuracy=number(found.pixel_accuracy(listed)),
                mean_accuracy=number(found.mean_accuracy(listed)),
                miou_given_object=number(given.mean_iou(listed)),
                pixels=int(found.support[1:].sum()),
            )
            metrics = class_metrics(found)
            per_class |= {f"{owner}/{self.level.names[group.parts[c]]}": metrics[c] for c in listed}
        if not per_object:
            return None
        objects = per_object.values()
        return PartMetrics(
            miou=mean(metrics.miou for metrics in objects),
            miou_with_background=mean(metrics.miou_with_background for metrics in objects),
            pixel_accuracy=mean(metrics.pixel_accuracy for metrics in objects),
            mean_accuracy=mean(metrics.mean_accuracy for metrics in objects),
            miou_given_object=mean(metrics.miou_given_object for metrics in objects),
            classes_absent=tuple(name for name, metrics in per_class.items() if metrics.iou is None),
            per_object=per_object,
            per_class=per_class,
        )


class Scores:
    """Scores of all levels of a taxonomy.

    Args:
        taxonomy: The taxonomy of the model.
        supervision: Level -> how image labels train it in the scored source, see `image_scores`; pooled if unlisted.
    """

    def __init__(self, taxonomy: Taxonomy, supervision: Mapping[str, str] | None = None) -> None:
        self.taxonomy = taxonomy
        self.supervision = supervision or {}
        owned = {name for name in taxonomy.levels if LEVEL_KINDS[name].owned_by}
        free = {name: level for name, level in taxonomy.levels.items() if name not in owned}
        self.pixels = {name: PixelScore(level) for name, level in free.items() if LEVEL_KINDS[name].dense}
        self.labels = {name: LabelScore(level) for name, level in free.items()}
        self.parts = {name: PartScore(taxonomy, name) for name in taxonomy.levels if name in owned}

    def update(
        self,
        outputs: Mapping[str, Tensor],
        sample: Sample,
        implied: bool = False,
        via_sizes: Sequence[Size] = (),
    ) -> None:
        """Add one photo.

        Args:
            outputs: Logits or probabilities of this photo alone, at least for `annotated_levels(sample)`.
            sample: Its annotations. The outputs are resized to the size of its label maps.
            implied: Score the implied labels (`sample.implied`) instead of the annotated ones.
            via_sizes: Sizes that the outputs are resized to, one after another, before the size of the label map.

        Raises:
            UpernetError: Parts are annotated but not the objects that own them.
        """
        scored = {name for name in (*sample.maps, *sample.labels) if (name in sample.implied) == implied}
        scored_parts = [name for name in self.parts if name in sample.maps and name in scored]
        owners = {LEVEL_KINDS[name].owned_by for name in scored_parts}
        predictions: dict[str, Tensor] = {}
        for name, mask in sample.maps.items():
            if name in self.pixels and (name in scored or name in owners):
                truth = mask.as_subclass(Tensor).to(outputs[name].device)
                predictions[name] = label_map(outputs[name], (truth.shape[-2], truth.shape[-1]), via_sizes)
                if name in scored:
                    self.pixels[name].update(predictions[name], truth)
        for name in scored_parts:
            owner = LEVEL_KINDS[name].owned_by
            if owner is None or owner not in sample.maps:
                raise UpernetError(
                    f"{sample.key}: parts are annotated without the objects that own them; "
                    "add the objects to the source in the recipe, for example `implies: {object: {'*': person}}`."
                )
            device = outputs[name].device
            objects, parts = (sample.maps[level].as_subclass(Tensor).to(device) for level in (owner, name))
            self.parts[name].update(outputs[name], predictions[owner], objects, parts, via_sizes)
        for name, label in sample.labels.items():
            if name in self.labels and name in scored:
                self.labels[name].update(image_scores(outputs[name], self.supervision.get(name, "pooled")), label)

    def __iadd__(self, other: Scores) -> Scores:
        """Add the photos of `other`."""
        for name, score in other.pixels.items():
            self.pixels[name] += score
        for name, score in other.labels.items():
            self.labels[name] += score
        for name, score in other.parts.items():
            self.parts[name] += score
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place; every process calls it once, in the same order."""
        for score in self._all():
            score.reduce()

    def result(self) -> dict[str, LevelMetrics]:
        """Return the metrics of the levels that any photo annotates."""
        results: dict[str, LevelMetrics] = {}
        for name in self.taxonomy.levels:
            pixels, labels, parts = self.pixels.get(name), self.labels.get(name), self.parts.get(name)
            metrics = LevelMetrics(
                pixels=pixels.result() if pixels else None,
                labels=labels.result() if labels else None,
                parts=parts.result() if parts else None,
            )
            if metrics != LevelMetrics():
                results[name] = metrics
        return results

    def _all(self) -> Iterator[PixelScore | LabelScore | PartScore]:
        yield from self.pixels.values()
        yield from self.labels.values()
        yield from self.parts.values()


def scored_classes(level: Level) -> list[int]:
    """Return the labels of `level` without its background."""
    return list(range(1 if level.background else 0, level.num_classes))


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
