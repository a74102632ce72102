"""A run that tries everything in about a minute: whether data, recipe and machine work together."""

from __future__ import annotations

from upernet.recipe import Augmentation, Recipe, StageSpec, TrainingSpec, ValidationSpec

ITERATIONS = 6
"""Iterations of each stage."""
PHOTOS = 4
"""Photos per source in a validation."""
BATCH = 2
"""Photos in a batch; batch norms need two."""
SIDE = 128
"""Longest side of a crop in pixels."""


def quick_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe with the same stages and sources, and with few iterations on few and small photos.

    Thresholds are not calibrated, because that needs all photos that are held back.
    """
    training = recipe.training
    if training is None:
        return recipe
    sources = {
        name: source.model_copy(
            update={"batch_size": min(source.batch_size, BATCH), "augmentation": _small(source.augmentation)}
        )
        for name, source in recipe.sources.items()
    }
    validation = None if training.validation is None else _few_photos(training.validation)
    update = {"stages": tuple(map(_short, training.stages)), "validation": validation, "workers": 0, "ema_decay": None}
    return recipe.model_copy(
        update={
            "sources": sources,
            "training": TrainingSpec.model_validate(training.model_copy(update=update)),
            "calibration": type(recipe.calibration)(),
        }
    )


def _small(augmentation: Augmentation) -> Augmentation:
    height, width = augmentation.crop
    return augmentation.model_copy(update={"crop": (min(height, SIDE), min(width, SIDE))})


def _short(stage: StageSpec) -> StageSpec:
    stage = stage.with_own_optimizer()
    augmentation = {name: _small(value) for name, value in stage.augmentation.items()}
    warmup = min(stage.warmup_iterations, 1)
    iterations = min(stage.iterations, ITERATIONS)
    return stage.model_copy(
        update={"iterations": iterations, "warmup_iterations": warmup, "augmentation": augmentation}
    )


def _few_photos(validation: ValidationSpec) -> ValidationSpec:
    photos = min(validation.photos or PHOTOS, PHOTOS)
    return validation.model_copy(update={"every": ITERATIONS // 2, "photos": photos, "patience": None})
