"""Data sources: one file per layout of folders."""

from __future__ import annotations

from pathlib import Path

from upernet.data.sources.camvid import Camvid
from upernet.data.sources.label_folder import LabelFolder
from upernet.data.sources.mask_folder import MaskFolder
from upernet.data.sources.source import Photo, Source, SourceMissing
from upernet.errors import UpernetError
from upernet.recipe import SourceSpec
from upernet.taxonomy import Taxonomy

__all__ = ["Photo", "Source", "SourceMissing", "list_source", "open_source"]

KINDS: dict[str, type[Source]] = {"mask_folder": MaskFolder, "label_folder": LabelFolder, "camvid": Camvid}


def open_source(name: str, spec: SourceSpec, taxonomy: Taxonomy, data_dir: str | Path, split: str) -> Source:
    """Open a split of a source: its files are listed, none is decoded.

    Raises:
        SourceMissing: the source has no such split, or the split's folder is not below `data_dir`.
        UpernetError: the class mapping does not fit the taxonomy, there are no photos, photos lack their mask, or a
            class folder is not mapped.
    """
    source = list_source(name, spec, taxonomy, data_dir, split)
    problems = source.problems()
    if problems:
        raise UpernetError(problems[0])
    return source


def list_source(name: str, spec: SourceSpec, taxonomy: Taxonomy, data_dir: str | Path, split: str) -> Source:
    """As `open_source`, but what `Source.problems` tells is not raised: for reports."""
    return KINDS[spec.kind](name, spec, taxonomy, Path(data_dir), split)
