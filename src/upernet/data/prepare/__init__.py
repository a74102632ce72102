"""Preparation of published data sets for recipes: one module per data set, which defines `prepare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from upernet.errors import UpernetError

DATASETS = ("ade20k",)
"""Names of the data sets, which are also the names of their modules."""

Progress = Callable[[int, int], None]
"""Called with the number of photos done and the number of all photos."""


@dataclass
class Prepared:
    """The result of preparing a data set."""

    folder: Path
    origin: str
    """The release that the files are from."""
    photos: dict[str, int] = field(default_factory=dict[str, int])
    """split -> number of photos in the archives, all of which are in the folder now."""
    written: dict[str, int] = field(default_factory=dict[str, int])
    """split -> number of photos that were not in the folder before."""
    note: str = ""
    """What users of the data should know."""


def prepare(
    dataset: str, data_dir: str | Path, archives: Sequence[str | Path], progress: Progress | None = None
) -> Prepared:
    """Write the photos and labels of downloaded archives to `data_dir`, in the folders that recipes read.

    Args:
        dataset: A name in `DATASETS`.
        data_dir: Directory with the data sets; `--data` of the commands.
        archives: Zip files, or the folders that they were unpacked to.
        progress: Called after each photo.

    Raises:
        UpernetError: The data set is unknown, an archive cannot be used, or the folder cannot be written.
    """
    if dataset not in DATASETS:
        raise UpernetError(f"unknown data set {dataset!r}: give one of {', '.join(DATASETS)}.")
    return import_module(f"{__name__}.{dataset}").prepare(data_dir, archives, progress)
