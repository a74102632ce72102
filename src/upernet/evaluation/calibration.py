"""Thresholds of confidence below which a label is shown as unsure."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from upernet.data.sample import Sample
from upernet.data.sources import Source
from upernet.errors import UpernetError
from upernet.evaluation.confusion import sum_over_processes
from upernet.evaluation.loop import Progress, inference, open_sources, share
from upernet.evaluation.passes import network_input
from upernet.models import UPerNet
from upernet.recipe import Recipe
from upernet.taxonomy import IGNORE, Taxonomy

STEPS = 1000
"""Thresholds are multiples of 1 / STEPS."""
SHOW_NOTHING = 1.01
"""Threshold of a level whose target is out of reach; no softmax probability gets there."""


def calibrate(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> dict[str, float]:
    """The smallest threshold per level at which the labels shown are right as often as the recipe asks for.

    Counted on the photos of the split `held_back`, for every level of `recipe.calibration.precision`, per pixel of the
    stride-4 logits (scene: per photo). The confidence of a pixel is its largest softmax probability (part: within the
    slice of the predicted object); a prediction of background, or of no part, shows nothing. It is right where it
    agrees with the label, annotated or implied, and left out where that is unknown; with an image label, every pixel
    carries the photo's label. In a source that the recipe lists under `calibration.negatives` for a level, whatever is
    shown of it is wrong. Sources count equally, whatever their size, and so do those with labels of the level together
    and the negatives together. Every pixel counts, in a histogram of the confidences, so that memory is bounded and the
    result is the same every time.

    Returns:
        `{level: threshold}`, multiples of 0.001. Where no threshold reaches the target, `SHOW_NOTHING`, with a warning.

    Raises:
        UpernetError: a level has no held-back photos with labels, a source of `negatives` does not exist or has no
            held-back photos, or a file is broken.
    """
    precision = recipe.calibration.precision
    if not precision:
        return {}
    check_calibration(model.taxonomy, recipe)
    sources, skipped = open_sources(model, recipe, data_dir, "held_back")
    for level, names in recipe.calibration.negatives.items():
        for name in names:
            if name in skipped:
                folder = recipe.sources[name].path
                raise UpernetError(
                    f"calibration.negatives.{level}: {data_dir} lacks source {name}; put {folder} there."
                )
    labelled: dict[str, list[Tensor]] = {level: [] for level in precision}
    negative: dict[str, list[Tensor]] = {level: [] for level in precision}
    with inference(model, device):
        for name, source in sources.items():
            shows_none = [level for level in precision if name in recipe.calibration.negatives.get(level, ())]
            shows_some = [level for level in precision if level in source.levels and level not in shows_none]
            tallies = _tallies(model, source, shows_some, shows_none, device, progress)
            for level, counts in tallies.items():
                (negative if level in shows_none else labelled)[level].append(counts)
    return {level: _threshold(level, labelled[level], negative[level], target) for level, target in precision.items()}


def check_calibration(taxonomy: Taxonomy, recipe: Recipe) -> None:
    """What can be known before any photo is read.

    Raises:
        UpernetError: the recipe asks for a level that is not there, or for a source that is not there or holds nothing
            back.
    """
    for level in recipe.calibration.precision:
        taxonomy.level(level)
    for level, names in recipe.calibration.negatives.items():
        for name in names:
            if name not in recipe.sources:
                known = ", ".join(recipe.sources)
                raise UpernetError(f"calibration.negatives.{level}: there is no source {name!r}; name one of {known}.")
            if not recipe.sources[name].held_back and "held_back" not in recipe.sources[name].splits:
                raise UpernetError(
                    f"calibration.negatives.{level}: source {name} holds no photos back; set its `held_back`."
                )


def _tallies(
    model: UPerNet,
    source: Source,
    shows_some: list[str],
    shows_none: list[str],
    device: str | torch.device,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """A `tally` per level over all photos of `source` and all processes."""
    levels = [*shows_some, *shows_none]
    counts = {level: torch.zeros(2, STEPS + 1, dtype=torch.int64) for level in levels}
    if not levels:
        return counts
    asked = dict.fromkeys([*levels, "object"] if "part" in levels else levels)
    for sample in share(source, progress):
        logits = model(network_input(model, sample, source.spec.test_resize, device), levels=tuple(asked))
        for level in levels:
            confidence, label, shown = shown_labels(logits, level, model.taxonomy)
            right = torch.zeros_like(shown)
            if level in shows_some:
                truth = _truth(sample, level, model.taxonomy, label)
                right, shown = label == truth, shown & (truth != IGNORE)
            counts[level] += tally(confidence[shown], right[shown])
    for level in levels:
        sum_over_processes(counts[level])
    return counts


def shown_labels(logits: dict[str, Tensor], level: str, taxonomy: Taxonomy) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence (float), label (int64) and whether it says anything (bool) per pixel, h x w; of the scene, 1 each."""
    if level != "part":
        scores = logits[level][0].float()
        confidence, label = (scores[:, None] if scores.ndim == 1 else scores).softmax(dim=0).max(dim=0)
        shown = label > 0 if taxonomy.level(level).background else torch.ones_like(label, dtype=torch.bool)
        return confidence, label, shown
    predicted = logits["object"][0].argmax(dim=0)
    confidence = torch.zeros(predicted.shape, device=predicted.device)
    label = torch.zeros_like(predicted)
    for group in taxonomy.part_groups:
        sureness, local = logits["part"][0, group.channels].float().softmax(dim=0).max(dim=0)
        inside = predicted == group.owner
        confidence = torch.where(inside, sureness, confidence)
        label = torch.where(inside, torch.tensor(group.parts, device=label.device)[local], label)
    return confidence, label, label > 0


def tally(confidence: Tensor, right: Tensor) -> Tensor:
    """Counts per step of confidence of the wrong (row 0) and the right (row 1): int64 2 x (STEPS + 1), on the CPU."""
    step = (confidence.double() * STEPS).floor().long().clamp(0, STEPS)
    return torch.bincount(right.long() * (STEPS + 1) + step, minlength=2 * (STEPS + 1)).view(2, -1).cpu()


def smallest_threshold(labelled: list[Tensor], negative: list[Tensor], target: float) -> float | None:
    """The smallest threshold at which a share `target` of what is shown is right; None if there is none.

    Args:
        labelled: a `tally` per source with labels.
        negative: a `tally` per source in which nothing is to be found.
        target: share in 0..1.
    """
    shown, right = torch.zeros(STEPS + 1, dtype=torch.float64), torch.zeros(STEPS + 1, dtype=torch.float64)
    for tallies in (labelled, negative):
        with_pixels = [counts for counts in tallies if counts.any()]
        for counts in with_pixels:
            weight = 1 / (len(with_pixels) * counts.sum().double())
            at_least = counts.flip(1).cumsum(1).flip(1)  # pixels of at least this confidence
            shown += weight * at_least.sum(0)
            right += weight * at_least[1]
    # Sums of rounded weights: 0.9 out of 1 must reach a target of 0.9.
    reached = (shown > 0) & (right >= target * shown - 1e-12)
    return int(reached.nonzero()[0]) / STEPS if reached.any() else None


def _threshold(level: str, labelled: list[Tensor], negative: list[Tensor], target: float) -> float:
    if not any(counts.any() for counts in labelled):
        raise UpernetError(
            f"calibration.precision.{level}: no held-back photos have labels of this level; "
            "set `held_back` in a source that annotates it."
        )
    threshold = smallest_threshold(labelled, negative, target)
    if threshold is None:
        warnings.warn(f"{level}: no threshold reaches a precision of {target:g}; nothing of it is shown.", stacklevel=3)
        return SHOW_NOTHING
    return threshold


def _truth(sample: Sample, level: str, taxonomy: Taxonomy, like: Tensor) -> Tensor:
    """Labels of `level` for each pixel of `like`; IGNORE where unknown."""
    if level in sample.maps:
        mask = sample.maps[level].as_subclass(Tensor).to(like.device, torch.int64)
        rows, columns = (
            (torch.arange(few, device=like.device) * 2 + 1) * many // (2 * few)
            for few, many in zip(like.shape, mask.shape, strict=True)
        )
        truth = mask[rows[:, None], columns]  # at the pixels' centres
    else:
        truth = torch.full_like(like, sample.labels.get(level, IGNORE))
    if taxonomy.level(level).background and level != "part":
        truth = torch.where(truth == 0, IGNORE, truth)
    return truth
