"""What a recipe can be trained on with the data at hand."""

from __future__ import annotations

from pathlib import Path

from upernet.data.sources import Photo, SourceMissing, open_source
from upernet.errors import UpernetError
from upernet.recipe import Recipe, TrainingSpec
from upernet.taxonomy import IGNORE, LEVEL_KINDS


def training_of(recipe: Recipe) -> TrainingSpec:
    """Return the training of a recipe.

    Raises:
        UpernetError: It has none, or no sources.
    """
    if recipe.training is None or not recipe.sources:
        raise UpernetError(
            f"recipe {recipe.name} has no training section or no sources, so that it cannot be trained; add them."
        )
    return recipe.training


def photos_per_level(recipe: Recipe, data_dir: Path) -> dict[str, int]:
    """Return the number of photos to train each level on; levels without any are left out, and so are parts of those.

    Args:
        recipe: Recipe with a `training` section; its stages say which sources count.
        data_dir: Folder that contains the folders of the sources.

    Raises:
        UpernetError: There is no `training` section, or a source is broken.
    """
    taxonomy, found = recipe.load_taxonomy(), dict[str, int]()
    for name in {source: None for stage in training_of(recipe).stages for source in stage.sources}:
        try:
            source = open_source(name, recipe.sources[name], taxonomy, data_dir, "train", recipe.sources)
        except SourceMissing:
            continue
        for level in source.annotated_levels:
            count = sum(_annotates(photo, level) for photo in source.photos) if source.photos else len(source)
            found[level] = found.get(level, 0) + count
    known = {level: found[level] for level in taxonomy.levels if found.get(level)}
    owners = {level: LEVEL_KINDS[level].owned_by for level in known}
    return {level: count for level, count in known.items() if owners[level] is None or owners[level] in known}


def _annotates(photo: Photo, level: str) -> bool:
    return photo.masks.get(level) is not None or photo.labels.get(level, IGNORE) != IGNORE
