"""Conversion of published data sets, as their makers pack them, to the folders that recipes read.

A new data set is a row of `DATASETS` and a module of that name, whose `PREPARE` is the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from upernet.errors import UpernetError, did_you_mean

Progress = Callable[[int, int], None]

DATASETS = {
    "ade20k": (
        "ADEChallengeData2016.zip of the MIT Scene Parsing Benchmark, or the full ADE20K, which is reduced to the "
        "benchmark's 150 classes and sizes."
    ),
}
"""Name of a data set -> the archives that `prepare` takes."""


@dataclass
class Prepared:
    """The result of preparing a data set."""

    folder: Path
    origin: str
    """Name of the release that the archives are from."""
    photos: dict[str, int] = field(default_factory=dict[str, int])
    """Split -> photos that the archives hold, all of which are there now."""
    written: dict[str, int] = field(default_factory=dict[str, int])
    """Split -> those of them that were not there before."""
    note: str = ""
    """A note for users of the data."""


def prepare(
    dataset: str, data_dir: str | Path, archives: Sequence[str | Path], progress: Progress | None = None
) -> Prepared:
    """Write the photos and annotations of `archives` to the folder of `dataset` in `data_dir`; keep existing files.

    Args:
        dataset: A name of `DATASETS`.
        data_dir: Directory of the recipes' data sets; `--data` of the other commands.
        archives: Downloaded files, or the folders that they were unpacked to.
        progress: Called with the number of photos done and of photos in all.

    Raises:
        UpernetError: There is no such data set, or the archives or the folder cannot be used.
    """
    if dataset not in DATASETS:
        raise UpernetError(
            f"unknown data set {dataset!r}{did_you_mean(dataset, DATASETS)}; give one of {', '.join(DATASETS)}."
        )
    function: Callable[..., Prepared] = import_module(f"{__name__}.{dataset}").PREPARE
    return function(data_dir, archives, progress)
