"""What calibration counts: how confident the predictions of each class are, and which of them are right.

Every prediction is counted at several temperatures, so that one pass over the photos serves the choice of the
temperature and of the thresholds. A histogram of the confidences bounds the memory and makes results reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType

import torch
from torch import Tensor

from upernet.data.sample import Sample
from upernet.data.sources import Source
from upernet.decoding import Prediction, predict
from upernet.distributed import sum_over_processes
from upernet.errors import UpernetError
from upernet.evaluation.loop import PhotoProgress, eval_mode, open_sources, samples_of_rank
from upernet.evaluation.tta import network_input
from upernet.models import UPerNet
from upernet.recipe import Recipe, Split
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Level, Taxonomy

STEPS = 1000
"""Number of steps of confidence between 0 and 1; thresholds are multiples of 1 / STEPS."""
TEMPERATURES = tuple(2 ** (power / 6) for power in range(-9, 7))
"""Divisors of the logits: from 0.35 to 2, about 12 % apart; 1 is among them."""
UNCHANGED = TEMPERATURES.index(1)
PIXELS = 4096
"""About how many pixels of a photo are counted, on a regular grid; neighboring pixels say nearly the same."""


class Confidences:
    """The predictions of one level, of several sources.

    The sources with labels have equal weights, whatever their size, and so have the sources of negatives. Both kinds
    together weigh the same. What shows nothing (the background, "no part") is not counted.
    """

    def __init__(self, level: Level) -> None:
        self.level = level
        self.photos = torch.zeros(level.num_classes, dtype=torch.int64)
        """Number of photos with a counted prediction of each class: int64 K."""
        self._sums = {negative: torch.zeros(_shape(level), dtype=torch.float64) for negative in (False, True)}
        self._sources = {False: 0, True: 0}

    def add(self, counts: Tensor, photos: Tensor, total: int, negative: bool) -> None:
        """Add a source.

        Args:
            counts: One `tally` per temperature and class: int64 T x K x 2 x (STEPS + 1).
            photos: Number of photos with a counted prediction of each class: int64 K.
            total: Number of predictions that stand for the whole source; it is left out if there are none.
            negative: The source has no labels of the level.
        """
        if total:
            self._sums[negative] += counts / total
            self._sources[negative] += 1
            self.photos += photos

    @property
    def has_labels(self) -> bool:
        """Whether any labeled prediction was counted."""
        return bool(self._sources[False])

    def labeled(self) -> Tensor:
        """Return the mean over the labeled sources: float64 T x K x 2 x (STEPS + 1); in dimension 2: wrong, right."""
        return self._sums[False] / max(1, self._sources[False])

    def mixture(self) -> Tensor:
        """Return `labeled()` and the mean over the sources of negatives, added up."""
        return self.labeled() + self._sums[True] / max(1, self._sources[True])


def count_confidences(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    split: Split,
    levels: Sequence[str],
    device: str | torch.device = "cpu",
    progress: PhotoProgress | None = None,
) -> dict[str, Confidences]:
    """Count the confidences of the predictions on the photos of a split; see `upernet.evaluation.calibrate`.

    Raises:
        UpernetError: No source has photos of this split, or a source of negatives is missing, or a file is broken.
    """
    sources, skipped = open_sources(model, recipe, data_dir, split)
    negatives = recipe.calibration.negatives
    for level in levels:
        for name in negatives.get(level, ()):
            if name in skipped:
                raise UpernetError(
                    f"calibration.negatives.{level}: source {name} is missing in {data_dir}; put its folder there."
                )
    found = {level: Confidences(model.taxonomy.level(level)) for level in levels}
    with eval_mode(model, device):
        for name, source in sources.items():
            absent = {
                level: absent_labels(model.taxonomy, level, negatives[level][name])
                for level in levels
                if name in negatives.get(level, ())
            }
            _count_source(found, model, source, absent, device, progress)
    return found


def absent_labels(taxonomy: Taxonomy, level: str, classes: Sequence[str]) -> Tensor:
    """Return which labels of a level `classes` names, all of them for `*`: bool K.

    Raises:
        UpernetError: The level has no such class.
    """
    known = taxonomy.level(level)
    if "*" in classes:
        return torch.ones(known.num_classes, dtype=torch.bool)
    absent = torch.zeros(known.num_classes, dtype=torch.bool)
    absent[[known.index(name) for name in classes]] = True
    return absent


def shown_labels(logits: Mapping[str, Tensor], level: str, taxonomy: Taxonomy) -> tuple[Prediction, Tensor]:
    """Return the predictions of a photo, and which of them are shown because they are not background or "no part".

    Args:
        logits: 1 x K x h x w (scene: 1 x K) of `level`, and of the level that owns it.
        level: Level to decode.
        taxonomy: The taxonomy of the model.

    Returns:
        The prediction and a boolean mask, both h x w; scene: without dimensions.
    """
    owner = LEVEL_KINDS[level].owned_by
    levels = (level,) if owner is None else (owner, level)
    found = predict({name: logits[name][0] for name in levels}, taxonomy.part_groups)[level]
    shown = found.labels > 0 if taxonomy.level(level).background else torch.ones_like(found.labels, dtype=torch.bool)
    return found, shown


def tally(labels: Tensor, confidence: Tensor, correct: Tensor, num_classes: int) -> Tensor:
    """Count predictions per class and step of confidence: int64 K x 2 x (STEPS + 1) on the CPU; wrong, then right."""
    step = (confidence.double() * STEPS).floor().long().clamp(0, STEPS)
    index = (labels * 2 + correct.long()) * (STEPS + 1) + step
    return torch.bincount(index, minlength=num_classes * 2 * (STEPS + 1)).view(num_classes, 2, -1).cpu()


def _shape(level: Level) -> tuple[int, int, int, int]:
    return len(TEMPERATURES), level.num_classes, 2, STEPS + 1


def _count_source(
    found: Mapping[str, Confidences],
    model: UPerNet,
    source: Source,
    absent: Mapping[str, Tensor],
    device: str | torch.device,
    progress: PhotoProgress | None,
) -> None:
    """Add the predictions on the photos of `source`, of all processes, to those of the levels that it judges.

    Args:
        found: Level -> what was counted.
        model: Model in eval mode.
        source: The source.
        absent: Level -> classes that its photos do not show: bool K.
        device: Device to compute on.
        progress: See `upernet.evaluation.calibrate`.
    """
    # Where no class of a level can be shown, there are no labels, whatever the source implies.
    labeled = {level for level in found if level in source.levels and not (level in absent and absent[level].all())}
    levels = [level for level in found if level in labeled or level in absent]
    if not levels:
        return
    owners = [owner for level in levels if (owner := LEVEL_KINDS[level].owned_by)]
    needed = tuple(dict.fromkeys([*levels, *owners]))
    merged = {level: torch.as_tensor(table) for level, table in source.merged_labels().items()}
    counts = {level: torch.zeros(_shape(found[level].level), dtype=torch.int64) for level in levels}
    photos = {level: torch.zeros(found[level].level.num_classes, dtype=torch.int64) for level in levels}
    totals = torch.zeros(len(levels), dtype=torch.int64)
    for _, sample in samples_of_rank(source, progress):
        logits = model(network_input(model, sample, source.spec.test_resize, device), levels=needed)
        grid = _grid(logits)
        sampled = {name: values[grid] if values.ndim == 4 else values for name, values in logits.items()}
        for row, level in enumerate(levels):
            predicted, shown = shown_labels(sampled, level, model.taxonomy)
            labels = predicted.labels
            is_absent = absent[level].to(device)[labels] if level in absent else torch.zeros_like(shown)
            counted = shown & is_absent
            correct = torch.zeros_like(shown)
            if level in labeled:
                truth = _truth(sample, level, model.taxonomy, logits[level].shape[2:], device)
                truth = truth[grid] if truth.ndim == 2 else truth
                counts_as = merged[level].to(device)[labels] if level in merged else labels
                correct = (counts_as == truth) & ~is_absent
                counted |= shown & (truth != IGNORE)
            totals[row] += int((counted if level in labeled else shown).sum())
            photos[level] += torch.bincount(labels[counted], minlength=len(photos[level])).clamp(max=1).cpu()
            for index, temperature in enumerate(TEMPERATURES):
                scaled = {name: values / temperature for name, values in sampled.items()}
                confidence = shown_labels(scaled, level, model.taxonomy)[0].confidence
                num_classes = found[level].level.num_classes
                counts[level][index] += tally(labels[counted], confidence[counted], correct[counted], num_classes)
    sum_over_processes(totals)
    for row, level in enumerate(levels):
        sum_over_processes(counts[level])
        sum_over_processes(photos[level])
        found[level].add(counts[level], photos[level], int(totals[row]), negative=level not in labeled)


def _grid(logits: Mapping[str, Tensor]) -> tuple[EllipsisType, slice, slice]:
    """Return the index of the counted pixels of h x w maps: about `PIXELS` at equal distances."""
    pixels = max((values.shape[2] * values.shape[3] for values in logits.values() if values.ndim == 4), default=1)
    step = max(1, math.isqrt(pixels // PIXELS))
    return ..., slice(step // 2, None, step), slice(step // 2, None, step)


def _truth(sample: Sample, level: str, taxonomy: Taxonomy, size: Sequence[int], device: str | torch.device) -> Tensor:
    """Return the labels of `level` for h x w logits (or one, without `size`); -1 where unknown.

    The background is unknown as well, where the taxonomy does not know it, but "no part" is not.
    """
    if level in sample.maps:
        mask = sample.maps[level].as_subclass(Tensor).to(device, torch.int64)
        rows, columns = (
            (torch.arange(length, device=device) * 2 + 1) * mask_length // (2 * length)
            for length, mask_length in zip(size, mask.shape, strict=True)
        )
        truth = mask[rows[:, None], columns]  # the label at the center of each pixel of the logits
    else:
        truth = torch.full(tuple(size), sample.labels.get(level, IGNORE), device=device)
    if taxonomy.level(level).unknown_background and LEVEL_KINDS[level].owned_by is None:
        truth = torch.where(truth == 0, IGNORE, truth)
    return truth
