"""Score of parts, each within the object that owns it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from upernet.decoding import Size, resized_prediction
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.evaluation.metrics import class_metrics, mean, number
from upernet.evaluation.photo_counts import NOT_SCORED, Confusion, Kind
from upernet.evaluation.reliability import Reliability
from upernet.evaluation.results import ObjectMetrics, PartMetrics, PixelClassMetrics
from upernet.recipe import MetricRules
from upernet.taxonomy import IGNORE, LEVEL_KINDS, PartGroup, Taxonomy


class PartScore:
    """Score of parts, each within the object that owns it (arXiv 1807.10221, section 4.1: mIoU-bg).

    For every object with parts, over the photos in which at least one of its parts is annotated: the truth is the part
    map inside the true object and "no part" elsewhere; the prediction is the most probable of that object's parts where
    the *predicted* object is that object, and "no part" elsewhere. So a part that is predicted outside its object, or
    on an object pixel without an annotated part, counts against it. Pixels whose true object or part is unknown are
    left out, and so are those whose object is not labeled (label 0 of a background that is not known).

    By the rules `published`, only pixels of unknown parts are left out, a part in neither truth nor prediction has an
    IoU of 0, and a photo that is filled by one part of one object is not scored for it.

    * `miou`: mean IoU of an object's parts without "no part", then mean over the objects.
    * `miou_with_background`: the same with "no part" as one more class of each object.
    * `pixel_accuracy`, `mean_accuracy`: over the pixels that show a listed part; mean over the objects.
    * `miou_given_object`: like `miou`, but only inside the true object, and whatever object is predicted there. It
      measures how well parts are told apart where objects are not annotated.
    * `ece`: the calibration of the part's probability among those of the true object, inside the true object.
    """

    kind: Kind = "parts"

    def __init__(self, taxonomy: Taxonomy, level: str = "part", rules: MetricRules = "standard") -> None:
        self.rules: MetricRules = rules
        self.level = taxonomy.level(level)
        self.owners = taxonomy.level(LEVEL_KINDS[level].owned_by or level)
        self.groups = taxonomy.part_groups
        self.labels: frozenset[int] | None = None
        """The part labels that means run over; None: all."""
        self.found = [ConfusionMatrix(len(group.parts)) for group in self.groups]
        self.given = [ConfusionMatrix(len(group.parts)) for group in self.groups]
        self.reliability = Reliability()

    def update(
        self,
        logits: Tensor,
        prediction: Tensor,
        objects: Tensor,
        parts: Tensor,
        via_sizes: Sequence[Size] = (),
        probabilities: bool = False,
        merge: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Add one photo.

        Args:
            logits: Part logits, 1 x (sum of the part groups) x h x w.
            prediction: Predicted objects, int H x W.
            objects: True objects, int H x W; -1: unknown.
            parts: True parts as labels of the level, int H x W; -1: unknown.
            via_sizes: See `Scores.update`.
            probabilities: See `Scores.update`.
            merge: Maps predicted part labels to what they count as; None: each counts as itself.
        """
        size = (parts.shape[-2], parts.shape[-1])
        for group, found, given in zip(self.groups, self.found, self.given, strict=True):
            inside = objects == group.owner
            local = torch.full_like(parts, IGNORE)
            for index, part in enumerate(group.parts):
                local[inside & (parts == part)] = index
            if not (local > 0).any() or (self.rules == "published" and _shows_one_value(local)):
                continue
            most_probable, confidence = resized_prediction(logits[:, group.channels], size, via_sizes, probabilities)
            if merge is not None:
                most_probable = _local(merge(torch.tensor(group.parts, device=local.device)[most_probable]), group)
            given.update(most_probable, local)
            known = local != IGNORE
            self.reliability.update(confidence[known], (most_probable == local)[known])
            local[~inside & self._is_another_object(objects)] = 0
            found.update(torch.where(prediction == group.owner, most_probable, 0), local)

    def _is_another_object(self, objects: Tensor) -> Tensor:
        """Return where no part of an object can be, given that it is not the object there."""
        if self.rules == "published":
            return torch.ones_like(objects, dtype=torch.bool)
        return objects > 0 if self.owners.unknown_background else objects != IGNORE

    def __iadd__(self, other: PartScore) -> PartScore:
        """Add the photos of `other`."""
        for matrix, added in zip(self.found + self.given, other.found + other.given, strict=True):
            matrix += added
        self.reliability += other.reliability
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place."""
        for matrix in self.found + self.given:
            matrix.reduce()
        self.reliability.reduce()

    def confusion(self) -> Confusion:
        """Return what was counted: the matrices of all objects in one, with a class per part of each object."""
        total = ConfusionMatrix(sum(len(group.parts) for group in self.groups))
        names: list[str] = []
        groups: list[int] = []
        for group, found in zip(self.groups, self.found, strict=True):
            total.counts[group.channels, group.channels] = found.counts[:, :-1]
            total.counts[group.channels, -1] = found.counts[:, -1]
            names += [f"{self.owners.names[group.owner]}/{self.level.names[part]}" for part in group.parts]
            groups += [NOT_SCORED, *[group.owner] * (len(group.parts) - 1)]
        return Confusion(total, tuple(names), tuple(groups))

    def result(self) -> PartMetrics | None:
        """Return the metrics; None if no part was annotated."""
        per_object: dict[str, ObjectMetrics] = {}
        per_class: dict[str, PixelClassMetrics] = {}
        for group, found, given in zip(self.groups, self.found, self.given, strict=True):
            listed = [c for c in range(1, len(group.parts)) if self.labels is None or group.parts[c] in self.labels]
            if not found.support[1:].any():
                continue
            owner = self.owners.names[group.owner]
            per_object[owner] = ObjectMetrics(
                miou=number(found.mean_iou(listed, self.rules)),
                miou_with_background=number(found.mean_iou([0, *listed], self.rules)),
                pixel_accuracy=number(found.pixel_accuracy(listed)),
                mean_accuracy=number(found.mean_accuracy(listed)),
                miou_given_object=number(given.mean_iou(listed, self.rules)),
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
            ece=self.reliability.ece(),
            classes_absent=tuple(name for name, metrics in per_class.items() if metrics.iou is None),
            per_object=per_object,
            per_class=per_class,
            reliability=self.reliability.bins(),
        )


def _shows_one_value(local: Tensor) -> bool:
    """Return whether a photo shows one part of one object and nothing else."""
    return bool((local == local.flatten()[0]).all())


def _local(parts: Tensor, group: PartGroup) -> Tensor:
    """Return the index in a group of each part label; 0 for labels that it does not have."""
    local = torch.zeros_like(parts)
    for index, part in enumerate(group.parts):
        local[parts == part] = index
    return local
