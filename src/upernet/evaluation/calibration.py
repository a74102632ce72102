"""Calibration of the confidence thresholds below which a label is shown as unsure."""

from __future__ import annotations

import warnings
from pathlib import Path

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
from upernet.recipe import Recipe
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Taxonomy

STEPS = 1000
"""Number of steps of confidence between 0 and 1; thresholds are multiples of 1 / STEPS."""
SHOW_NOTHING = 1.01
"""Threshold of a level whose target precision is out of reach; no softmax probability gets there."""


def calibrate(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    device: str | torch.device = "cpu",
    progress: PhotoProgress | None = None,
) -> dict[str, float]:
    """Return the smallest threshold per level at which the share of correct labels reaches the target precision.

    The target precisions are those of `recipe.calibration.target_precision`, the photos those of the split `held_back`.
    Labels are counted per pixel of the stride-4 logits, image-level labels (scene) per photo:

    * The confidence of a pixel is its largest softmax probability; for parts, among the parts of the predicted object.
    * A prediction of the background, or of no part, shows nothing and is not counted.
    * A prediction is correct if it agrees with the label, whether annotated or implied. Pixels without a label are left
      out. An image label of a dense level is the label of every pixel.
    * In a source that `recipe.calibration.negatives` lists for a level, every prediction that is shown is wrong.
    * Sources with labels of the level have equal weights, whatever their size, and so have negatives; if there are
      negatives, they weigh as much as the labeled sources together.

    A histogram of the confidences counts every pixel, so that memory is bounded and the result is reproducible.

    Args:
        model: The model; it is moved to `device`, and its training mode is restored afterwards.
        recipe: Recipe that lists the sources and the target precisions.
        data_dir: Folder that contains the folders of the sources.
        device: Device to compute on.
        progress: Called before each photo and after the last one of a source.

    Returns:
        level -> threshold, a multiple of 0.001; `SHOW_NOTHING`, with a warning, if no threshold reaches the target.

    Raises:
        UpernetError: A level has no held-back photos with labels, a source of `negatives` does not exist or has no
            held-back photos, or a file is broken.
    """
    targets = recipe.calibration.target_precision
    negatives = recipe.calibration.negatives
    if not targets:
        return {}
    check_calibration(model.taxonomy, recipe)
    sources, skipped = open_sources(model, recipe, data_dir, "held_back")
    for level, names in negatives.items():
        for name in names:
            if name in skipped:
                raise UpernetError(
                    f"calibration.negatives.{level}: source {name} is missing in {data_dir}; put its folder there."
                )
    labeled_counts: dict[str, list[Tensor]] = {level: [] for level in targets}
    negative_counts: dict[str, list[Tensor]] = {level: [] for level in targets}
    with eval_mode(model, device):
        for name, source in sources.items():
            negative = [level for level in targets if name in negatives.get(level, ())]
            labeled = [level for level in targets if level in source.levels and level not in negative]
            for level, counts in _count_source(model, source, labeled, negative, device, progress).items():
                (negative_counts if level in negative else labeled_counts)[level].append(counts)
    return {
        level: _threshold(level, labeled_counts[level], negative_counts[level], target)
        for level, target in targets.items()
    }


def check_calibration(taxonomy: Taxonomy, recipe: Recipe) -> None:
    """Check the calibration settings of a recipe, as far as that is possible without photos.

    Raises:
        UpernetError: The settings name a level that the taxonomy lacks, or a source that does not exist or holds no
            photos back.
    """
    for level in recipe.calibration.target_precision:
        taxonomy.level(level)
    for level, names in recipe.calibration.negatives.items():
        for name in names:
            if name not in recipe.sources:
                known = ", ".join(recipe.sources)
                raise UpernetError(f"calibration.negatives.{level}: there is no source {name!r}; name one of {known}.")
            if "held_back" not in recipe.sources[name].split_names:
                raise UpernetError(
                    f"calibration.negatives.{level}: source {name} holds no photos back; set its `held_back`."
                )


def shown_labels(logits: dict[str, Tensor], level: str, taxonomy: Taxonomy) -> tuple[Prediction, Tensor]:
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


def tally(confidence: Tensor, correct: Tensor) -> Tensor:
    """Count predictions per step of confidence: int64 2 x (STEPS + 1) on the CPU; row 0: wrong, row 1: correct."""
    step = (confidence.double() * STEPS).floor().long().clamp(0, STEPS)
    return torch.bincount(correct.long() * (STEPS + 1) + step, minlength=2 * (STEPS + 1)).view(2, -1).cpu()


def smallest_threshold(labeled: list[Tensor], negative: list[Tensor], target: float) -> float | None:
    """Return the smallest threshold at which the share of correct labels reaches `target`; None if there is none.

    Args:
        labeled: One `tally` per source with labels.
        negative: One `tally` per source of negatives.
        target: Target precision in 0..1.
    """
    shown, correct = torch.zeros(STEPS + 1, dtype=torch.float64), torch.zeros(STEPS + 1, dtype=torch.float64)
    for tallies in (labeled, negative):
        with_pixels = [counts for counts in tallies if counts.any()]
        for counts in with_pixels:
            weight = 1 / (len(with_pixels) * counts.sum().double())
            at_least = counts.flip(1).cumsum(1).flip(1)  # pixels of at least this confidence
            shown += weight * at_least.sum(0)
            correct += weight * at_least[1]
    # The weights are rounded: 0.9 of 1 must reach a target of 0.9.
    reached = (shown > 0) & (correct >= target * shown - 1e-12)
    return int(reached.nonzero()[0]) / STEPS if reached.any() else None


def _count_source(
    model: UPerNet,
    source: Source,
    labeled: list[str],
    negative: list[str],
    device: str | torch.device,
    progress: PhotoProgress | None,
) -> dict[str, Tensor]:
    """Return one `tally` per level over all photos of `source` and all processes.

    Args:
        model: Model in eval mode.
        source: Source of held-back photos.
        labeled: Levels whose labels the source has.
        negative: Levels of which the photos of the source show nothing.
        device: Device to compute on.
        progress: See `calibrate`.
    """
    levels = [*labeled, *negative]
    counts = {level: torch.zeros(2, STEPS + 1, dtype=torch.int64) for level in levels}
    if not levels:
        return counts
    owners = [owner for level in levels if (owner := LEVEL_KINDS[level].owned_by)]
    needed = tuple(dict.fromkeys([*levels, *owners]))
    for _, sample in samples_of_rank(source, progress):
        logits = model(network_input(model, sample, source.spec.test_resize, device), levels=needed)
        for level in levels:
            found, shown = shown_labels(logits, level, model.taxonomy)
            correct = torch.zeros_like(shown)
            if level in labeled:
                truth = _truth(sample, level, model.taxonomy, found.labels)
                correct, shown = found.labels == truth, shown & (truth != IGNORE)
            counts[level] += tally(found.confidence[shown], correct[shown])
    for level in levels:
        sum_over_processes(counts[level])
    return counts


def _threshold(level: str, labeled: list[Tensor], negative: list[Tensor], target: float) -> float:
    if not any(counts.any() for counts in labeled):
        raise UpernetError(
            f"calibration.target_precision.{level}: no held-back photos have labels of this level; "
            "set `held_back` in a source that annotates it."
        )
    threshold = smallest_threshold(labeled, negative, target)
    if threshold is None:
        warnings.warn(
            f"{level}: no threshold reaches the target precision of {target:g}; none of its labels will be shown.",
            stacklevel=3,
        )
        return SHOW_NOTHING
    return threshold


def _truth(sample: Sample, level: str, taxonomy: Taxonomy, like: Tensor) -> Tensor:
    """Return the labels of `level` for the pixels of `like`; -1 where it, or a background's class, is unknown."""
    if level in sample.maps:
        mask = sample.maps[level].as_subclass(Tensor).to(like.device, torch.int64)
        rows, columns = (
            (torch.arange(size, device=like.device) * 2 + 1) * mask_size // (2 * size)
            for size, mask_size in zip(like.shape, mask.shape, strict=True)
        )
        truth = mask[rows[:, None], columns]  # the label at the center of each pixel of `like`
    else:
        truth = torch.full_like(like, sample.labels.get(level, IGNORE))
    if taxonomy.level(level).unknown_background and LEVEL_KINDS[level].owned_by is None:
        truth = torch.where(truth == 0, IGNORE, truth)
    return truth
