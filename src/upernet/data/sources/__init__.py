"""Data sources: one module per kind, which has the name of the kind and defines its class as `SOURCE`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from upernet.data.sources.source import Photo, Source, SourceMissing
from upernet.errors import UpernetError
from upernet.recipe import AnySourceSpec
from upernet.taxonomy import Taxonomy

__all__ = ["Photo", "Source", "SourceMissing", "list_source", "open_source"]


def open_source(name: str, spec: AnySourceSpec, taxonomy: Taxonomy, data_dir: str | Path, split: str) -> Source:
    """Open a split of a source: its files are listed, none is decoded.

    Raises:
        SourceMissing: The source has no such split, or the folder of the split is not in `data_dir`.
        UpernetError: The class mapping does not fit the taxonomy, there are no photos, photos lack an annotation, or a
            class folder is not mapped.
    """
    source = list_source(name, spec, taxonomy, data_dir, split)
    problems = source.problems()
    if problems:
        raise UpernetError(problems[0])
    return source


def list_source(name: str, spec: AnySourceSpec, taxonomy: Taxonomy, data_dir: str | Path, split: str) -> Source:
    """Open a source like `open_source`, but leave it to the caller to look at `Source.problems`, for reports."""
    kind: type[Source] = import_module(f"{__name__}.{spec.kind}").SOURCE
    return kind(name, spec, taxonomy, Path(data_dir), split)
