"""Losses of heterogeneous annotations (arXiv 1807.10221, sections 3.2 and 4.1).

Only what a source annotates is learned.

Every loss comes as a numerator and a denominator, so that processes can share the denominator and the gradient of a
batch does not depend on how it is split over them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.data.sample import Batch
from upernet.models import AUXILIARY
from upernet.recipe import LossSpec
from upernet.taxonomy import IGNORE, Taxonomy


@dataclass(frozen=True)
class Ratio:
    """A loss `numerator / denominator`: a weighted sum of negative log likelihoods over the sum of the weights."""

    numerator: Tensor
    denominator: Tensor


class LevelLosses:
    """Computes the losses of a batch, named by level (`object`, `object/auxiliary`, `part/person`, ...)."""

    def __init__(self, taxonomy: Taxonomy, spec: LossSpec, device: torch.device | str = "cpu"):
        self.taxonomy = taxonomy
        self.spec = spec
        self.class_weights: dict[str, Tensor] = {}
        for level, factors in spec.class_weights.items():
            weights = torch.ones(taxonomy.level(level).num_classes)
            for name, factor in factors.items():
                weights[taxonomy.level(level).index(name)] = factor
            self.class_weights[level] = weights.to(device)
        self.local_labels = {group: self._local_labels(group.parts).to(device) for group in taxonomy.part_groups}

    @property
    def names(self) -> tuple[str, ...]:
        """Every loss that there can be, in a fixed order."""
        owners = [self.taxonomy.level("object").names[group.owner] for group in self.taxonomy.part_groups]
        levels = [level for level in self.taxonomy.levels if level != "part"]
        return (*levels, f"object/{AUXILIARY}", *(f"part/{owner}" for owner in owners))

    def weight(self, name: str, implied: Collection[str] = ()) -> float:
        """Factor of the loss `name` in the total; `implied`: the levels whose labels are implied."""
        level, _, detail = name.partition("/")
        weights: Mapping[str, float] = {**self.spec.weights}
        factor = weights[level] * (self.spec.weak if level in implied else 1.0)
        return factor * self.spec.auxiliary if detail == AUXILIARY else factor

    def __call__(self, logits: Mapping[str, Tensor], batch: Batch, supervision: Mapping[str, str]) -> dict[str, Ratio]:
        """Losses of `logits` (of the levels that `batch` annotates) as ratios; 0 / 0 where no label is known.

        Args:
            logits: what the model returned, N x K (x h x w).
            batch: maps int64 N x H x W and labels int64 N, IGNORE where unknown.
            supervision: Level -> `broadcast` or `pooled`, how an image label trains a dense level; default: `pooled`.
        """
        losses: dict[str, Ratio] = {}
        maps = {level: self._at_stride(target) for level, target in batch.maps.items()}
        for level, target in maps.items():
            if level not in logits:
                continue
            resized = _resize(logits[level], target)
            if level == "part":
                losses.update(self._parts(resized, target, maps["object"]))
            else:
                losses[level] = self._cross_entropy(resized, target, level)
            if level == "object" and AUXILIARY in logits:
                losses[f"object/{AUXILIARY}"] = self._cross_entropy(_resize(logits[AUXILIARY], target), target, level)
        for level, label in batch.labels.items():
            if level in logits and level not in maps:
                losses[level] = self._image_label(logits[level], label, level, supervision.get(level, "pooled"))
        return losses

    def _at_stride(self, target: Tensor) -> Tensor:
        stride = self.spec.stride
        return target[..., stride // 2 :: stride, stride // 2 :: stride]

    def _cross_entropy(self, logits: Tensor, target: Tensor, level: str, smoothing: float = 0.0) -> Ratio:
        """Background (label 0 of a level that has one) is unknown too, as in the published training."""
        if self.taxonomy.level(level).background:
            target = torch.where(target == 0, IGNORE, target)
        weights = self.class_weights.get(level)
        numerator = F.cross_entropy(
            logits.float(), target, weights, ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing
        )
        if self.spec.average == "all":
            return Ratio(numerator, numerator.new_tensor(float(target.numel())))
        known = target != IGNORE
        denominator = known.sum().float() if weights is None else weights[target.clamp(min=0)][known].sum()
        return Ratio(numerator, denominator)

    def _parts(self, logits: Tensor, target: Tensor, owners: Tensor) -> dict[str, Ratio]:
        """One loss per object that owns parts, over the pixels of that object, among its own parts (section 4.1)."""
        losses = {}
        for group in self.taxonomy.part_groups:
            inside = (owners == group.owner) & (target != IGNORE)
            if not inside.any():
                continue
            local = torch.where(inside, self.local_labels[group][target.clamp(min=0)], IGNORE)
            weights = self.class_weights.get("part")
            weights = None if weights is None else weights[list(group.parts)]
            numerator = F.cross_entropy(
                logits[:, group.channels].float(), local, weights, ignore_index=IGNORE, reduction="sum"
            )
            denominator = inside.sum().float() if weights is None else weights[local[inside]].sum()
            name = self.taxonomy.level("object").names[group.owner]
            losses[f"part/{name}"] = Ratio(numerator, denominator)
        return losses

    def _image_label(self, logits: Tensor, label: Tensor, level: str, supervision: str) -> Ratio:
        smoothing = self.spec.label_smoothing
        if logits.ndim == 4 and supervision == "broadcast":
            label = label[:, None, None].expand(-1, *logits.shape[-2:])
        elif logits.ndim == 4:
            logits = logits.float().mean(dim=(2, 3))
        return self._cross_entropy(logits, label, level, smoothing)

    def _local_labels(self, parts: tuple[int, ...]) -> Tensor:
        """Global part label -> position in the object's list; 0 for parts that the object does not own."""
        local = torch.zeros(self.taxonomy.level("part").num_classes, dtype=torch.long)
        local[list(parts)] = torch.arange(len(parts))
        return local


def _resize(logits: Tensor, target: Tensor) -> Tensor:
    if logits.shape[-2:] == target.shape[-2:]:
        return logits
    return F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
