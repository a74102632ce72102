"""Calibration: temperatures of the logits, and the thresholds below which a label is shown as unsure."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from upernet.errors import UpernetError
from upernet.evaluation.confidences import TEMPERATURES, UNCHANGED, absent_labels, count_confidences
from upernet.evaluation.familiarity import check_familiar
from upernet.evaluation.loop import PhotoProgress
from upernet.evaluation.thresholds import SHOW_NOTHING, choose_temperature, class_thresholds, smallest_threshold
from upernet.models import UPerNet
from upernet.recipe import Recipe
from upernet.taxonomy import LEVEL_KINDS, Taxonomy

EVEN_ODDS = 0.5
"""Least threshold of levels with one label per image."""


@dataclass(frozen=True)
class Calibration:
    """What calibration finds; the card of a model has fields of the same names."""

    thresholds: dict[str, float] = field(default_factory=dict[str, float])
    """Level -> probability below which a label is unsure, of classes without a threshold of their own."""
    class_thresholds: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Level -> class -> probability below which the label is unsure."""
    temperatures: dict[str, float] = field(default_factory=dict[str, float])
    """Level -> divisor of the logits, of levels where it is not 1."""


def calibrate(
    model: UPerNet,
    recipe: Recipe,
    data_dir: str | Path,
    device: str | torch.device = "cpu",
    progress: PhotoProgress | None = None,
) -> Calibration:
    """Find the temperature of each level, and the smallest thresholds at which labels reach the target precision.

    The target precisions are those of `recipe.calibration.target_precision`, the photos those of the split `held_back`.
    The temperature of a level divides its logits so that confidences agree with accuracies (see `choose_temperature`).
    A threshold is that of a class, or that of the level for classes that no held-back photo shows (`class_thresholds`).

    Labels are counted at pixels of the stride-4 logits, image-level labels (scene) per photo:

    * The confidence of a pixel is its largest softmax probability; for parts, among the parts of the predicted object.
    * An image has one label of the level scene, and a label that is more probably wrong is not shown, however precise
      the others are: these thresholds are at least `EVEN_ODDS`.
    * A prediction of the background, or of no part, shows nothing and is not counted.
    * A prediction is correct if it agrees with the label, whether annotated or implied. Pixels without a label are left
      out. An image label of a dense level is the label of every pixel.
    * In a source that `recipe.calibration.negatives` lists, every prediction of the classes that it names is wrong.
    * Sources with labels of the level have equal weights, whatever their size, and so have sources without that show
      negatives; if there are any, they weigh as much as the labeled sources together.

    Args:
        model: The model; it is moved to `device`, and its training mode is restored afterwards.
        recipe: Recipe that lists the sources and the target precisions.
        data_dir: Folder that contains the folders of the sources.
        device: Device to compute on.
        progress: Called before each photo and after the last one of a source.

    Returns:
        The thresholds, multiples of 0.001, and temperatures. A threshold is `SHOW_NOTHING`, with a warning, if the
        target is out of reach.

    Raises:
        UpernetError: A level has no held-back photos with labels, a source or class of `negatives` does not exist or
            the source has no held-back photos, or a file is broken.
    """
    targets = recipe.calibration.target_precision
    result = Calibration()
    if not targets:
        return result
    check_calibration(model.taxonomy, recipe)
    for level, found in count_confidences(
        model, recipe, data_dir, "held_back", tuple(targets), device, progress
    ).items():
        if not found.has_labels:
            raise UpernetError(
                f"calibration.target_precision.{level}: no held-back photos have labels of this level; "
                "set `held_back` in a source that annotates it."
            )
        temperature = choose_temperature(found.labeled().sum(1))
        if temperature != UNCHANGED:
            result.temperatures[level] = TEMPERATURES[temperature]
        least = 0.0 if LEVEL_KINDS[level].dense else EVEN_ODDS
        threshold = smallest_threshold(found.mixture()[temperature].sum(0), targets[level])
        result.thresholds[level] = SHOW_NOTHING if threshold is None else max(least, threshold)
        own = class_thresholds(found, temperature, targets[level])
        own = {name: max(least, value) for name, value in own.items()}
        result.class_thresholds[level] = {
            name: value for name, value in own.items() if value != result.thresholds[level]
        }
        _warn(level, targets[level], [name for name, value in own.items() if value == SHOW_NOTHING], len(own))
    return result


def check_calibration(taxonomy: Taxonomy, recipe: Recipe) -> None:
    """Check the calibration settings of a recipe, as far as that is possible without photos.

    Raises:
        UpernetError: The settings name a level or class that the taxonomy lacks, or a source that does not exist or
            holds no photos back.
    """
    check_familiar(recipe)
    for level in recipe.calibration.target_precision:
        taxonomy.level(level)
    for level, sources in recipe.calibration.negatives.items():
        for name, classes in sources.items():
            if name not in recipe.sources:
                known = ", ".join(recipe.sources)
                raise UpernetError(f"calibration.negatives.{level}: there is no source {name!r}; name one of {known}.")
            if "held_back" not in recipe.sources[name].split_names:
                raise UpernetError(
                    f"calibration.negatives.{level}: source {name} holds no photos back; set its `held_back`."
                )
            try:
                absent_labels(taxonomy, level, classes)
            except UpernetError as error:
                raise UpernetError(f"calibration.negatives.{level}.{name}: {error}") from error


def _warn(level: str, target: float, hidden: list[str], classes: int) -> None:
    if len(hidden) == classes:
        what = "none of its labels will be shown"
    elif hidden:
        what = f"these labels will not be shown: {', '.join(hidden)}"
    else:
        return
    warnings.warn(f"{level}: no threshold reaches the target precision of {target:g}; {what}.", stacklevel=3)
