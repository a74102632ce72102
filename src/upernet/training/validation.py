"""Validation during training: when it is due, on which photos, and which model is the best so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upernet.data.sources import Source, SourceMissing, open_source
from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult, evaluate
from upernet.models import UPerNet
from upernet.recipe import Recipe, Split, ValidationSpec
from upernet.taxonomy import Taxonomy
from upernet.training.history import METRICS, Validation, metrics_of
from upernet.training.state import Progress

SHARE = 10
"""Number of validations in a run whose recipe does not say how often it validates."""


@dataclass(frozen=True)
class Validator:
    """Scores the model of a run on photos that it is not trained on.

    Attributes:
        spec: Settings.
        recipe: Recipe of the run.
        data_dir: Folder with its data.
        split: Photos that are scored.
        levels: Levels that are scored.
    """

    spec: ValidationSpec
    recipe: Recipe
    data_dir: Path
    split: Split
    levels: tuple[str, ...]

    def is_due(self, progress: Progress) -> bool:
        """Return whether the model is to be scored now, because it has not been and it is time."""
        if progress.done == 0 or (progress.validations and progress.validations[-1].iteration == progress.done):
            return False
        every = self.spec.every or max(1, progress.total // SHARE)
        return progress.done % every == 0 or progress.done == progress.total

    def score(self, model: UPerNet, device: str, on_photo: Callable[[], None]) -> EvaluationResult:
        """Score a model, which is left in the mode that it was in, apart from the modes of its parts.

        Args:
            model: The model.
            device: Device to compute on.
            on_photo: Called before each photo; it may raise an exception to stop.
        """
        return evaluate(
            model,
            self.recipe,
            self.data_dir,
            self.split,
            device,
            lambda source, done, total: on_photo(),
            photos=self.spec.photos,
        )

    def record(self, progress: Progress, stage: str, result: EvaluationResult) -> bool:
        """Add the scores to those of the run, and return whether they are the best so far, or equal to them.

        The later of two models with the same score is kept: the stage may train what the score does not measure.

        Raises:
            UpernetError: The metric that decides was not measured.
        """
        validation = Validation(progress.done, stage, metrics_of(result))
        found = deciding_metric(validation, self.spec.metric)
        if found is None:
            raise UpernetError(
                f"training.validation.metric: {self.spec.metric} was not measured on the photos of split {self.split}; "
                f"choose one of {', '.join(validation.metrics) or 'none'}."
            )
        best = best_so_far(progress, self.spec.metric)
        progress.validations.append(validation)
        progress.stale = 0 if best is None or found[1] > best[1] else progress.stale + 1
        is_kept = best is None or found[1] >= best[1]
        if is_kept:
            progress.kept = progress.done
        return is_kept

    def is_exhausted(self, progress: Progress) -> bool:
        """Return whether the stage ends early, because the scores have not improved for long enough."""
        return self.spec.patience is not None and progress.stale >= self.spec.patience


def deciding_metric(validation: Validation, name: str | None) -> tuple[str, float] | None:
    """Return the name and the value of the metric that decides which model is the best.

    Args:
        validation: The scores.
        name: The metric. None: the first one of `object` or, without objects, of the first level.
    """
    if name is None:
        ofobjects = [metric for metric in validation.metrics if metric.startswith("object.")]
        name = next(iter(ofobjects or validation.metrics), None)
    value = None if name is None else validation.metrics.get(name)
    return None if name is None or value is None else (name, value)


def best_so_far(progress: Progress, name: str | None) -> tuple[str, float] | None:
    """Return the metric that decides and its value for the model that was kept; None if none was."""
    kept = (validation for validation in progress.validations if validation.iteration == progress.kept)
    return next((deciding_metric(validation, name) for validation in kept), None)


def create_validator(recipe: Recipe, taxonomy: Taxonomy, data_dir: Path) -> Validator | None:
    """Return what validates a run of `recipe`; None if the recipe wants none, or no source has photos for it.

    Raises:
        UpernetError: The recipe asks for a split or a metric that there is not, or a source is broken.
    """
    spec = recipe.training.validation if recipe.training else None
    if spec is None:
        return None
    splits: Sequence[Split] = ("val", "held_back") if spec.split is None else (spec.split,)
    opened = [_open(recipe, taxonomy, data_dir, split) for split in splits]
    most = max(range(len(splits)), key=lambda number: len(opened[number]))  # the first, if several have as many
    split, sources = splits[most], opened[most]
    if not sources:
        if spec.split is not None:
            raise UpernetError(
                f"training.validation.split: no source has photos of split {spec.split}; "
                "set `held_back` in a source, or set validation to null."
            )
        return None
    levels = {level for source in sources.values() for level in source.annotated_levels}
    _check_metric(spec.metric, taxonomy, levels, split)
    ordered = tuple(level for level in taxonomy.levels if level in levels)
    return Validator(spec, recipe, data_dir, split, ordered)


def _open(recipe: Recipe, taxonomy: Taxonomy, data_dir: Path, split: Split) -> Mapping[str, Source]:
    sources: dict[str, Source] = {}
    for name, spec in recipe.sources.items():
        if split not in spec.split_names:
            continue
        try:
            sources[name] = open_source(name, spec, taxonomy, data_dir, split, recipe.sources)
        except SourceMissing:
            continue
    return sources


def _check_metric(metric: str | None, taxonomy: Taxonomy, levels: set[str], split: Split) -> None:
    if metric is None:
        return
    level, _, name = metric.partition(".")
    if name not in METRICS:
        raise UpernetError(
            f"training.validation.metric: {metric!r} is not LEVEL.METRIC with a metric among {', '.join(METRICS)}."
        )
    if taxonomy.level(level).name not in levels:
        raise UpernetError(
            f"training.validation.metric: no photo of split {split} is annotated at level {level}; "
            f"choose one of {', '.join(sorted(levels))}."
        )
