"""Losses for heterogeneous annotations: a batch trains the levels that its source annotates.

See arXiv 1807.10221, sections 3.2 and 4.1. Every loss is a numerator and a denominator, so that processes can share the
denominator, and the gradient of a batch does not depend on how it is split over them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.data.candidates import FIRST_CODE, Candidates
from upernet.data.sample import Batch
from upernet.errors import UpernetError
from upernet.models import AUXILIARY
from upernet.ops import resized_cross_entropy
from upernet.recipe import LossSpec
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Taxonomy

_PUBLISHED = LossSpec()


@dataclass(frozen=True)
class Ratio:
    """A loss `numerator / denominator`: a weighted sum of negative log likelihoods over the sum of the weights."""

    numerator: Tensor
    denominator: Tensor


class LevelLosses:
    """Computes the losses of a batch, named by level (`object`, `object/auxiliary`, `part/person`, ...).

    Args:
        taxonomy: The taxonomy of the model.
        spec: Weights of the levels and classes, and how losses are averaged.
        device: Device of the logits.

    Raises:
        UpernetError: `spec` weights a class that the taxonomy does not have.

    Example:
        >>> model = UPerNet("resnet18", classes=2)
        >>> losses = LevelLosses(model.taxonomy)
        >>> images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        >>> batch = Batch(images, maps={"object": torch.ones(2, 64, 64, dtype=torch.int64)})
        >>> losses.total(model(model.preprocess(images)), batch).backward()
    """

    def __init__(self, taxonomy: Taxonomy, spec: LossSpec = _PUBLISHED, device: torch.device | str = "cpu"):
        self.taxonomy = taxonomy
        self.spec = spec
        self.class_weights: dict[str, Tensor] = {}
        for level, factors in spec.class_weights.items():
            weights = torch.ones(taxonomy.level(level).num_classes)
            for name, factor in factors.items():
                weights[taxonomy.level(level).index(name)] = factor
            self.class_weights[level] = weights.to(device)
        num_parts = max(
            (level.num_classes for level in taxonomy.levels.values() if LEVEL_KINDS[level.name].owned_by), default=0
        )
        self.local_labels = {group: _local_labels(group.parts, num_parts).to(device) for group in taxonomy.part_groups}

    @property
    def names(self) -> tuple[str, ...]:
        """Every loss that there can be, in a fixed order."""
        free = [level for level in self.taxonomy.levels if LEVEL_KINDS[level].owned_by is None]
        owned = [
            f"{level}/{self.taxonomy.level(owner_level).names[group.owner]}"
            for level in self.taxonomy.levels
            if (owner_level := LEVEL_KINDS[level].owned_by)
            for group in self.taxonomy.part_groups
        ]
        return (*free, f"object/{AUXILIARY}", *owned)

    def weight(self, name: str, implied: Collection[str] = ()) -> float:
        """Return the factor of the loss `name` in the total; the labels of the levels in `implied` are implied."""
        level, _, detail = name.partition("/")
        weights: Mapping[str, float] = {**self.spec.weights}
        factor = weights[level] * (self.spec.weak if level in implied else 1.0)
        return factor * self.spec.auxiliary if detail == AUXILIARY else factor

    def total(self, logits: Mapping[str, Tensor], batch: Batch, supervision: Mapping[str, str] | None = None) -> Tensor:
        """Return the weighted sum of the losses of a batch, as a scalar; 0 if no label is known.

        Args:
            logits: what the model returned, N x K (x h x w).
            batch: maps int64 N x H x W and labels int64 N, IGNORE where unknown.
            supervision: Level -> `broadcast` or `pooled`, how an image label trains a dense level; default: `pooled`.

        Raises:
            UpernetError: The taxonomy does not have a level of the batch, or its labels have another dtype or shape or
                are no classes of the level.
        """
        self._check_labels(batch)
        ratios = self(logits, batch, supervision or {})
        tiny = torch.finfo(torch.float32).tiny
        losses = [
            self.weight(name, batch.implied) * ratio.numerator / ratio.denominator.clamp(min=tiny)
            for name, ratio in ratios.items()
        ]
        # The sum over all logits keeps the result differentiable where no label is known.
        return torch.stack([*losses, *(0 * value.float().sum() for value in logits.values())]).sum()

    def _check_labels(self, batch: Batch) -> None:
        photos = len(batch)
        for found, shape in ((batch.maps, (photos, *batch.images.shape[-2:])), (batch.labels, (photos,))):
            for level, labels in found.items():
                classes = self.taxonomy.level(level).num_classes
                if labels.dtype != torch.int64 or labels.shape != shape:
                    raise UpernetError(
                        f"the labels of level {level} are {labels.dtype} {_product(labels.shape)}; they must be "
                        f"torch.int64 {_product(shape)}."
                    )
                low, high = (int(value) for value in labels.aminmax())
                sets = len(batch.candidates[level]) if level in batch.candidates else 0
                if low < IGNORE - sets or high >= classes:
                    raise UpernetError(
                        f"the labels of level {level} go from {low} to {high}; they must be from 0 to {classes - 1}, "
                        f"or {IGNORE} where unknown."
                    )

    def __call__(self, logits: Mapping[str, Tensor], batch: Batch, supervision: Mapping[str, str]) -> dict[str, Ratio]:
        """Compute the losses of the levels that `batch` annotates, as ratios; 0 / 0 where no label is known.

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
            candidates = batch.candidates.get(level)
            if owner_level := LEVEL_KINDS[level].owned_by:
                losses.update(self._parts(level, logits[level], target, owner_level, maps[owner_level], candidates))
            else:
                losses[level] = self._pixels(logits[level], target, level, candidates)
            if level == "object" and AUXILIARY in logits:
                losses[f"object/{AUXILIARY}"] = self._pixels(logits[AUXILIARY], target, level, candidates)
        for level, label in batch.labels.items():
            if level in logits and level not in maps:
                losses[level] = self._image_label(logits[level], label, level, supervision.get(level, "pooled"))
        return losses

    def _at_stride(self, target: Tensor) -> Tensor:
        stride = self.spec.stride
        return target[..., stride // 2 :: stride, stride // 2 :: stride]

    def _pixels(self, logits: Tensor, target: Tensor, level: str, candidates: Candidates | None) -> Ratio:
        """Return the loss of a label map that may refer to candidate sets.

        Background (label 0) is unknown, as published, unless the level knows it.
        """
        if self.taxonomy.level(level).unknown_background:
            target = torch.where(target == 0, IGNORE, target)
        ratio = _cross_entropy(logits, target, self.class_weights.get(level), candidates)
        if self.spec.average == "all":
            return Ratio(ratio.numerator, ratio.numerator.new_tensor(float(target.numel())))
        return ratio

    def _parts(
        self,
        level: str,
        logits: Tensor,
        target: Tensor,
        owner_level: str,
        owners: Tensor,
        candidates: Candidates | None,
    ) -> dict[str, Ratio]:
        """Return one loss per object that owns parts: over the pixels of the object, among its parts (section 4.1)."""
        losses = {}
        for group in self.taxonomy.part_groups:
            labels = torch.where(owners == group.owner, target, IGNORE)
            if not (labels != IGNORE).any():
                continue
            local = torch.where(labels >= 0, self.local_labels[group][labels.clamp(min=0)], labels)
            weights, parts = self.class_weights.get(level), list(group.parts)
            among = None if candidates is None else Candidates(candidates.members[:, parts], candidates.weights)
            ratio = _cross_entropy(logits[:, group.channels], local, None if weights is None else weights[parts], among)
            name = self.taxonomy.level(owner_level).names[group.owner]
            losses[f"{level}/{name}"] = ratio
        return losses

    def _image_label(self, logits: Tensor, label: Tensor, level: str, supervision: str) -> Ratio:
        if logits.ndim == 4 and supervision == "broadcast":
            label = label[:, None, None].expand(-1, *logits.shape[-2:])
        elif logits.ndim == 4:
            logits = logits.float().mean(dim=(2, 3))
        if self.taxonomy.level(level).unknown_background:
            label = torch.where(label == 0, IGNORE, label)
        weights, smoothing = self.class_weights.get(level), self.spec.label_smoothing
        numerator = F.cross_entropy(
            logits.float(), label, weights, ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing
        )
        if self.spec.average == "all":
            return Ratio(numerator, numerator.new_tensor(float(label.numel())))
        return Ratio(numerator, _weight_of(label, weights))


def _cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None, candidates: Candidates | None) -> Ratio:
    """Return the cross-entropy of logits N x K x h x w that are resized to the labels, int64 N x H x W.

    The loss of a pixel that refers to a candidate set is -log of the sum of the candidates' probabilities: the
    classifier-consistent loss of Feng et al., "Provably Consistent Partial-Label Learning", NeurIPS 2020. Sets without
    any of the K classes are not counted.
    """
    denominator = _weight_of(target, weights)
    if candidates is None:
        return Ratio(resized_cross_entropy(logits.float(), target, weights), denominator)
    numerator = resized_cross_entropy(logits.float(), target, weights, candidates.members, candidates.weights)
    sets = FIRST_CODE - target[target <= FIRST_CODE]
    return Ratio(numerator, denominator + (candidates.weights * candidates.members.any(dim=1))[sets].sum())


def _weight_of(target: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum of the weights of all known labels; `weights` is one per class, or None for 1 each."""
    known = target >= 0
    return known.sum().float() if weights is None else weights[target[known]].sum()


def _product(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _local_labels(parts: tuple[int, ...], num_parts: int) -> Tensor:
    """Return the channel of each part label in a group; 0 for parts that the group does not have."""
    local = torch.zeros(num_parts, dtype=torch.long)
    local[list(parts)] = torch.arange(len(parts))
    return local
