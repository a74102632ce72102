"""Data sources: one file per kind, named as the kind, whose `SOURCE` is the class.

A new kind is such a file and its settings in `upernet.recipe` (a subclass of `FolderSpec`, named in `AnySourceSpec`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from upernet.data.sources.annotation import LevelAnnotation, LevelLabels, LevelMasks, Photo
from upernet.data.sources.collage import Collage
from upernet.data.sources.source import FolderSource, Source, SourceMissing
from upernet.errors import UpernetError
from upernet.recipe import AnySourceSpec, CollageSpec
from upernet.taxonomy import Taxonomy

__all__ = [
    "Collage",
    "FolderSource",
    "LevelAnnotation",
    "LevelLabels",
    "LevelMasks",
    "Photo",
    "Source",
    "SourceMissing",
    "list_source",
    "open_source",
]


def open_source(
    name: str,
    spec: AnySourceSpec,
    taxonomy: Taxonomy,
    data_dir: str | Path,
    split: str,
    others: Mapping[str, AnySourceSpec] | None = None,
) -> Source:
    """Open a split of a source: list its files without decoding any.

    Args:
        name: Key of the source in its recipe.
        spec: Its settings.
        taxonomy: The taxonomy of the labels.
        data_dir: Folder that contains the folders of the sources.
        split: The split.
        others: The sources of the recipe, which a `collage` is made from.

    Raises:
        SourceMissing: The source has no such split, or the split's folder is not below `data_dir`.
        UpernetError: The class mapping does not fit the taxonomy, there are no photos, photos lack an annotation, or a
            class of the source is not mapped.
    """
    source = list_source(name, spec, taxonomy, data_dir, split, others)
    problems = source.problems()
    if problems:
        raise UpernetError(problems[0])
    return source


def list_source(
    name: str,
    spec: AnySourceSpec,
    taxonomy: Taxonomy,
    data_dir: str | Path,
    split: str,
    others: Mapping[str, AnySourceSpec] | None = None,
) -> Source:
    """Open a split of a source as `open_source` does, without raising `Source.problems`, which reports list."""
    if isinstance(spec, CollageSpec):
        return _open_collage(name, spec, taxonomy, data_dir, split, others or {})
    source: type[FolderSource] = import_module(f"{__name__}.{spec.kind}").SOURCE
    try:
        return source(name, spec, taxonomy, Path(data_dir), split)
    except OSError as error:
        place = error.filename or Path(data_dir)
        reason = error.strerror or error
        raise UpernetError(f"{place}: cannot be read ({reason}); check it and its permissions.") from None


def _open_collage(
    name: str,
    spec: CollageSpec,
    taxonomy: Taxonomy,
    data_dir: str | Path,
    split: str,
    others: Mapping[str, AnySourceSpec],
) -> Collage:
    if split not in spec.photos:
        raise SourceMissing(f"source {name} has no split {split}; add it to sources.{name}.photos.")
    parts: dict[str, Source] = {}
    for part in (spec.textures, *spec.surroundings):
        if part not in others:
            raise UpernetError(f"source {name} needs source {part}, which is missing; pass the recipe's sources.")
        parts[part] = open_source(part, others[part], taxonomy, data_dir, split)
    return Collage(name, spec, taxonomy, Path(data_dir), split, parts)
