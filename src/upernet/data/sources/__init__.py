"""Data sources: one file per kind, named as the kind, whose `SOURCE` is the class.

A new kind is such a file and its settings in `upernet.recipe` (a subclass of `SourceSpec`, named in `AnySourceSpec`).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from upernet.data.sources.annotation import LevelAnnotation, LevelLabels, LevelMasks, Photo
from upernet.data.sources.source import Source, SourceMissing
from upernet.errors import UpernetError
from upernet.recipe import AnySourceSpec
from upernet.taxonomy import Taxonomy

__all__ = [
    "LevelAnnotation",
    "LevelLabels",
    "LevelMasks",
    "Photo",
    "Source",
    "SourceMissing",
    "list_source",
    "open_source",
]


def open_source(name: str, spec: AnySourceSpec, taxonomy: Taxonomy, data_dir: str | Path, split: str) -> Source:
    """Open a split of a source: list its files without decoding any.

    Raises:
        SourceMissing: The source has no such split, or the split's folder is not below `data_dir`.
        UpernetError: The class mapping does not fit the taxonomy, there are no photos, photos lack an annotation, or a
            class of the source is not mapped.
    """
    source = list_source(name, spec, taxonomy, data_dir, split)
    problems = source.problems()
    if problems:
        raise UpernetError(problems[0])
    return source


def list_source(name: str, spec: AnySourceSpec, taxonomy: Taxonomy, data_dir: str | Path, split: str) -> Source:
    """Open a split of a source as `open_source` does, without raising `Source.problems`, which reports list."""
    source: type[Source] = import_module(f"{__name__}.{spec.kind}").SOURCE
    try:
        return source(name, spec, taxonomy, Path(data_dir), split)
    except OSError as error:
        place = error.filename or Path(data_dir)
        reason = error.strerror or error
        raise UpernetError(f"{place}: cannot be read ({reason}); check it and its permissions.") from None
