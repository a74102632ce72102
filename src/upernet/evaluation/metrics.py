"""Scores per level of perception, gathered one photo at a time.

Accumulators take the logits of one photo (1 x K x h x w, or 1 x K for the scene) and what its sample knows, add up
over photos, over accumulators (`+=`) and over processes (`reduce`), and end in a `dict` of floats in 0..1 or None.
The background class of a level (label 0 where `level.background`) is never scored: pixels of it are left out of the
score, and at the other pixels a prediction of it is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.data.sample import Sample
from upernet.errors import UpernetError
from upernet.evaluation.confusion import ConfusionMatrix, sum_over_processes
from upernet.taxonomy import IGNORE, Level, Taxonomy

Result = dict[str, Any]
Size = tuple[int, int]
"""Height and width in pixels."""
CHANNELS_AT_ONCE = 16


def label_map(logits: Tensor, *sizes: Size) -> Tensor:
    """Argmax of logits that are brought to each of `sizes` in turn: 1 x K x h x w -> int64 H x W, of the last size."""
    best, labels = None, None
    for start, block in resized_blocks(logits, *sizes):
        values, indices = block.max(dim=0)
        if best is None or labels is None:
            best, labels = values, indices
        else:
            better = values > best
            best = torch.where(better, values, best)
            labels = torch.where(better, indices + start, labels)
    if labels is None:
        raise ValueError("logits without channels")
    return labels


def resized_blocks(logits: Tensor, *sizes: Size) -> Iterator[tuple[int, Tensor]]:
    """Logits 1 x K x h x w at the last of `sizes`, a few channels at a time: (first channel, float32 k x H x W).

    A full-size copy of all K need not exist that way; the values are those of `resized`.
    """
    for start in range(0, logits.shape[1], CHANNELS_AT_ONCE):
        yield start, resized(logits[:, start : start + CHANNELS_AT_ONCE].float(), *sizes)[0]


def resized(logits: Tensor, *sizes: Size) -> Tensor:
    """N x K x h x w brought to each of `sizes` in turn, bilinear; corner pixels are not aligned."""
    for size in sizes:
        if size != logits.shape[-2:]:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits


def image_scores(logits: Tensor, supervision: str = "pooled") -> Tensor:
    """One score per class for a whole photo: 1 x K x h x w (or 1 x K) -> K.

    `pooled`: the mean of the logits over the pixels, as such a level is trained; `broadcast`: the mean of the pixels'
    softmax, since there every pixel was taught on its own.
    """
    if logits.ndim == 2:
        return logits[0].float()
    if supervision == "broadcast":
        return logits.float().softmax(dim=1).mean(dim=(2, 3))[0]
    return logits.float().mean(dim=(2, 3))[0]


class PixelScore:
    """A level that is annotated as a label map: mIoU, pixel accuracy, mean accuracy, and the same per class."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.matrix = ConfusionMatrix(level.num_classes)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add one photo: integer label maps H x W, truth -1 where unknown."""
        if self.level.background:
            truth = torch.where(truth == 0, IGNORE, truth)
        self.matrix.update(prediction, truth)

    def __iadd__(self, other: PixelScore) -> PixelScore:
        self.matrix += other.matrix
        return self

    def reduce(self) -> None:
        self.matrix.reduce()

    def result(self) -> Result:
        """Empty if no pixel was labelled. `classes_absent` were neither annotated nor predicted: not in the mIoU."""
        matrix = self.matrix
        classes = scored_classes(self.level)
        if not matrix.support[classes].any():
            return {}
        iou, accuracy, pixels = matrix.iou().tolist(), matrix.accuracy().tolist(), matrix.support.tolist()
        return {
            "miou": number(matrix.mean_iou(classes)),
            "pixel_accuracy": number(matrix.pixel_accuracy(classes)),
            "mean_accuracy": number(matrix.mean_accuracy(classes)),
            "classes_absent": [self.level.names[c] for c in classes if math.isnan(iou[c])],
            "per_class": {
                self.level.names[c]: {"iou": number(iou[c]), "accuracy": number(accuracy[c]), "pixels": pixels[c]}
                for c in classes
            },
        }


class LabelScore:
    """A level that is annotated by one label per photo: top-1 (scene: and top-5) accuracy, and the same per class."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.matrix = ConfusionMatrix(level.num_classes)
        self.in_top5 = torch.zeros(level.num_classes, dtype=torch.int64)

    def update(self, scores: Tensor, truth: int) -> None:
        """Add one photo: K scores (see `image_scores`) and its label; the background class is no candidate."""
        if truth == IGNORE or (self.level.background and truth == 0):
            return
        first = 1 if self.level.background else 0
        ranked = scores[first:].argsort(descending=True, stable=True).cpu() + first
        self.matrix.update(ranked[:1], torch.tensor([truth]))
        self.in_top5[truth] += int(truth in ranked[:5].tolist())

    def __iadd__(self, other: LabelScore) -> LabelScore:
        self.matrix += other.matrix
        self.in_top5 += other.in_top5
        return self

    def reduce(self) -> None:
        self.matrix.reduce()
        sum_over_processes(self.in_top5)

    def result(self) -> Result:
        """Empty if no photo was labelled."""
        photos = self.matrix.support
        if not photos.any():
            return {}
        top1, top5 = self.matrix.accuracy().tolist(), (self.in_top5.double() / photos).tolist()
        has_top5 = self.level.name == "scene"
        per_class = {}
        for c in scored_classes(self.level):
            values = {"top1": number(top1[c]), "top5": number(top5[c]), "photos": int(photos[c])}
            per_class[self.level.names[c]] = values if has_top5 else {k: v for k, v in values.items() if k != "top5"}
        result: Result = {"top1": number(self.matrix.pixel_accuracy())}
        if has_top5:
            result["top5"] = number(float(self.in_top5.sum().double() / photos.sum()))
        return {**result, "per_class": per_class}


class PartScore:
    """Parts, each scored within the object that owns it (arXiv 1807.10221, section 4.1: mIoU-bg).

    For every object with parts, over the photos in which it shows at least one annotated part:
    the truth is the part map inside the true object and "no part" elsewhere; the prediction is the argmax of that
    object's slice of the logits where the *predicted* object is that object, and "no part" elsewhere. So a part that
    is painted outside its object, or on an object pixel without a listed part, counts against it. Pixels where the
    true object or its part is unknown are left out.

    * `miou`: mean IoU of an object's parts, then mean over objects; "no part" is not one of them.
    * `miou_with_background`: the same with "no part" as one more class of each object.
    * `pixel_accuracy`, `mean_accuracy`: over the pixels that show a listed part; mean over objects.
    * `miou_given_object`: as `miou`, but inside the true object alone and with the slice's argmax read at each of its
      pixels, whatever object was predicted there: how well parts are told apart where objects are not annotated.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.groups = taxonomy.part_groups
        self.found = [ConfusionMatrix(len(group.parts)) for group in self.groups]
        self.given = [ConfusionMatrix(len(group.parts)) for group in self.groups]

    def update(
        self, logits: Tensor, prediction: Tensor, objects: Tensor, parts: Tensor, through: tuple[Size, ...] = ()
    ) -> None:
        """Add one photo.

        Args:
            logits: of the level `part`, 1 x (sum of the slices) x h x w.
            prediction: predicted objects, int H x W.
            objects: true objects, int H x W; -1: unknown.
            parts: true parts as global labels, int H x W; -1: unknown.
            through: as `Scores.update`.
        """
        size = (parts.shape[-2], parts.shape[-1])
        for group, found, given in zip(self.groups, self.found, self.given, strict=True):
            inside = objects == group.owner
            local = torch.full_like(parts, IGNORE)
            for index, part in enumerate(group.parts):
                local[inside & (parts == part)] = index
            if not (local > 0).any():
                continue
            chosen = label_map(logits[:, group.channels], *through, size)
            given.update(chosen, local)
            local[~inside & (objects != IGNORE)] = 0
            found.update(torch.where(prediction == group.owner, chosen, 0), local)

    def __iadd__(self, other: PartScore) -> PartScore:
        for mine, theirs in zip(self.found + self.given, other.found + other.given, strict=True):
            mine += theirs
        return self

    def reduce(self) -> None:
        for matrix in self.found + self.given:
            matrix.reduce()

    def result(self) -> Result:
        """Empty if no part was annotated."""
        names = self.taxonomy.level("part").names
        owners = self.taxonomy.level("object").names
        per_object: Result = {}
        per_class: Result = {}
        absent: list[str] = []
        for group, found, given in zip(self.groups, self.found, self.given, strict=True):
            listed = range(1, len(group.parts))
            if not found.support[1:].any():
                continue
            owner = owners[group.owner]
            per_object[owner] = {
                "miou": number(found.mean_iou(listed)),
                "miou_with_background": number(found.mean_iou()),
                "pixel_accuracy": number(found.pixel_accuracy(listed)),
                "mean_accuracy": number(found.mean_accuracy(listed)),
                "miou_given_object": number(given.mean_iou(listed)),
                "pixels": int(found.support[1:].sum()),
            }
            iou, accuracy, pixels = found.iou().tolist(), found.accuracy().tolist(), found.support.tolist()
            for c in listed:
                name = f"{owner}/{names[group.parts[c]]}"
                per_class[name] = {"iou": number(iou[c]), "accuracy": number(accuracy[c]), "pixels": pixels[c]}
                if math.isnan(iou[c]):
                    absent.append(name)
        if not per_object:
            return {}
        means = ("miou", "miou_with_background", "pixel_accuracy", "mean_accuracy", "miou_given_object")
        result: Result = {name: mean([values[name] for values in per_object.values()]) for name in means}
        return {**result, "classes_absent": absent, "per_object": per_object, "per_class": per_class}


class Scores:
    """All levels of one taxonomy: what an evaluation of one source adds up to.

    Args:
        supervision: how image labels teach dense levels in this source, see `image_scores`.
    """

    def __init__(self, taxonomy: Taxonomy, supervision: str = "pooled") -> None:
        self.taxonomy = taxonomy
        self.supervision = supervision
        dense = [level for level in taxonomy.levels.values() if level.name not in ("scene", "part")]
        self.pixels = {level.name: PixelScore(level) for level in dense}
        self.labels = {level.name: LabelScore(level) for level in taxonomy.levels.values() if level.name != "part"}
        self.parts = PartScore(taxonomy) if "part" in taxonomy.levels else None

    def update(
        self, logits: dict[str, Tensor], sample: Sample, weak: bool = False, through: tuple[Size, ...] = ()
    ) -> None:
        """Add one photo.

        Args:
            logits: of the batch that holds this photo alone, at least for `needed_levels(sample)`; or probabilities.
            sample: its annotations; label maps may have another size than the logits: those are resized.
            weak: score the labels that were implied (`sample.weak`) instead of the annotated ones.
            through: sizes that the logits are brought to, one after another, before that of the label map.

        Raises:
            UpernetError: parts are annotated, and the objects that own them are not.
        """
        scored = {name for name in (*sample.maps, *sample.labels) if (name in sample.weak) == weak}
        parts_scored = self.parts is not None and "part" in sample.maps and "part" in scored
        predictions: dict[str, Tensor] = {}
        for name, mask in sample.maps.items():
            if name in self.pixels and (name in scored or (name == "object" and parts_scored)):
                truth = mask.as_subclass(Tensor).to(logits[name].device)
                predictions[name] = label_map(logits[name], *through, (truth.shape[-2], truth.shape[-1]))
                if name in scored:
                    self.pixels[name].update(predictions[name], truth)
        if self.parts is not None and parts_scored:
            if "object" not in sample.maps:
                raise UpernetError(
                    f"{sample.key}: parts are annotated without the objects that own them: "
                    "let the source say them in the recipe, for example `implies: {object: {'*': person}}`."
                )
            device = logits["part"].device
            objects, parts = (sample.maps[name].as_subclass(Tensor).to(device) for name in ("object", "part"))
            self.parts.update(logits["part"], predictions["object"], objects, parts, through)
        for name, label in sample.labels.items():
            if name in self.labels and name in scored:
                self.labels[name].update(image_scores(logits[name], self.supervision), label)

    def __iadd__(self, other: Scores) -> Scores:
        for mine, theirs in zip(self._all(), other._all(), strict=True):
            mine += theirs
        return self

    def reduce(self) -> None:
        """Add up over the processes, in place; every process calls it once, in the same order."""
        for score in self._all():
            score.reduce()

    def result(self) -> dict[str, Result]:
        """`{level: {metric: value}}` for the levels that any photo annotates.

        A level with label maps in some photos and image labels in others has the metrics of both.
        """
        results: dict[str, Result] = {}
        for name in self.taxonomy.levels:
            merged: Result = {}
            for scores in (self.pixels, self.labels, {"part": self.parts}):
                score = scores.get(name)
                result = score.result() if score else {}
                classes = merged.get("per_class", {})
                for label, values in result.get("per_class", {}).items():
                    classes[label] = {**classes.get(label, {}), **values}
                merged = {**merged, **result, "per_class": classes} if result else merged
            if merged:
                results[name] = merged
        return results

    def _all(self) -> Iterator[Any]:
        yield from self.pixels.values()
        yield from self.labels.values()
        if self.parts:
            yield self.parts


def needed_levels(sample: Sample) -> tuple[str, ...]:
    """Levels whose logits scoring `sample` takes."""
    return tuple(dict.fromkeys([*sample.maps, *sample.labels]))


def scored_classes(level: Level) -> list[int]:
    """Labels of `level` without its background."""
    return list(range(1 if level.background else 0, level.num_classes))


def number(value: float) -> float | None:
    """nan, which JSON does not have, becomes None."""
    return None if math.isnan(value) else float(value)


def mean(values: list[float | None]) -> float | None:
    """Mean of the values that exist; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
