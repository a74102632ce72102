"""Scan the data of a recipe before training: labels first, then every photo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from upernet.data.sources import Source, SourceMissing, list_source
from upernet.data.sources.mask_folder import MaskFolder
from upernet.errors import UpernetError
from upernet.recipe import Recipe, SourceSpec
from upernet.taxonomy import IGNORE, Taxonomy, load_taxonomy

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """Something to put right: where, and one sentence with the fix."""

    source: str
    split: str
    text: str
    file: str = ""
    """The (first) file that has it."""
    count: int = 1
    """How many files have it."""
    values: tuple[int, ...] = ()
    """Mask values that are not mapped."""


@dataclass
class SplitReport:
    """What one split of one source holds."""

    source: str
    split: str
    level: str
    photos: int = 0
    unit: str = "photos"
    """What `labels` counts: `pixels` or `photos`."""
    labels: dict[str, int] = field(default_factory=dict)
    """Class of the taxonomy -> count, for every class that the source maps to."""
    unknown: int = 0
    """Count of what is mapped to unknown."""
    widths: tuple[int, int, int] | None = None
    """Least, median and greatest width of the photos (upright)."""
    heights: tuple[int, int, int] | None = None


@dataclass
class Report:
    """The outcome of `check`."""

    recipe: str
    data: str
    splits: list[SplitReport] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Splits that are not there, in words."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types, with `ok`."""
        return {"ok": self.ok, **asdict(self)}


def check(recipe: Recipe, data_dir: str | Path, progress: Progress | None = None) -> Report:
    """Read every mask, then every photo, of all splits of a recipe's sources; nothing on disk changes.

    A folder that is not there is listed under `missing`; it is a problem only if a stage trains on it.

    Args:
        progress: called with the number of files read and of files in all.

    Raises:
        UpernetError: the data directory, the taxonomy, or every source's folder is missing.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise UpernetError(f"{data_dir}: no such folder; give the directory that holds the data sets.")
    if not recipe.sources:
        raise UpernetError(f"recipe {recipe.name} has no sources; list its data under sources.")
    taxonomy = load_taxonomy(recipe.taxonomy)
    report = Report(recipe.name, str(data_dir))
    opened = _open_all(recipe, taxonomy, data_dir, report)
    if not opened and not report.problems:
        raise UpernetError(f"{data_dir}: holds none of the folders of recipe {recipe.name}: {report.missing[0]}")
    total = sum(len(source) * (2 if isinstance(source, MaskFolder) else 1) for source, _ in opened)
    count = _Counter(total, progress)
    mask_sizes: dict[Path, tuple[int, int]] = {}
    for source, split in opened:
        if isinstance(source, MaskFolder):
            _scan_masks(source, split, report, mask_sizes, count)
        else:
            _count_photos(source, split)
    for source, split in opened:
        _scan_photos(source, split, report, mask_sizes, count)
    return report


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def step(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


def _open_all(recipe: Recipe, taxonomy: Taxonomy, data_dir: Path, report: Report) -> list[tuple[Source, SplitReport]]:
    """List every split of every source, and report what the names of the files tell."""
    trained = {name for stage in (recipe.training.stages if recipe.training else ()) for name in stage.sources}
    opened = []
    for name, spec in recipe.sources.items():
        told: set[str] = set()  # a wrong mapping is wrong for every split: say it once
        for split in _splits(spec):
            try:
                source = list_source(name, spec, taxonomy, data_dir, split)
            except SourceMissing as error:
                report.missing.append(str(error))
                if split == "train" and name in trained:
                    report.problems.append(Problem(name, split, str(error)))
                continue
            except UpernetError as error:
                if str(error) not in told:
                    report.problems.append(Problem(name, split, str(error)))
                told.add(str(error))
                continue
            for text in source.problems():
                report.problems.append(Problem(name, split, text))
            if split != "held_back" or "held_back" in spec.splits:
                for folder in source.empty_folders():
                    text = f"{folder}: the class folder holds no photos; add some or remove the folder."
                    report.problems.append(Problem(name, split, text, str(folder)))
            opened.append((source, SplitReport(name, split, spec.level, len(source))))
    report.splits = [split for _, split in opened]
    return opened


def _splits(spec: SourceSpec) -> list[str]:
    held_back = ["held_back"] if spec.held_back and "train" in spec.splits and "held_back" not in spec.splits else []
    names = [*spec.splits, *held_back]
    return [name for name in ("train", "held_back", "val", "test") if name in names]


def _count_photos(source: Source, split: SplitReport) -> None:
    counts = np.bincount([photo.label or 0 for photo in source.photos], minlength=len(source.level.names))
    targets = set((source.spec.classes or {}).values())
    split.labels = {
        name: int(count) for name, count in zip(source.level.names, counts, strict=True) if count or name in targets
    }


def _scan_masks(
    source: MaskFolder, split: SplitReport, report: Report, sizes: dict[Path, tuple[int, int]], count: _Counter
) -> None:
    """Count pixels per class, and find masks that cannot be read or have values outside the mapping."""
    pixels = np.zeros(len(source.table), dtype=np.int64)
    outside: dict[int, list[Path]] = {}
    for photo in source.photos:
        count.step()
        if photo.mask is None:
            continue  # told by Source.problems
        try:
            mask = source.read_mask(photo)
        except UpernetError as error:
            report.problems.append(Problem(source.name, split.split, str(error), str(photo.mask)))
            continue
        sizes[photo.path] = (mask.shape[1], mask.shape[0])
        for value in source.unmapped_values(mask):
            outside.setdefault(value, []).append(photo.mask)
        inside = mask[(mask >= 0) & (mask < len(pixels))]
        found = np.bincount(inside)
        pixels[: len(found)] += found
    if outside:
        affected = {mask for masks in outside.values() for mask in masks}
        first = min(affected)
        text = f"{first}: {source.outside(sorted(outside))}"
        values = tuple(sorted(outside))
        report.problems.append(Problem(source.name, split.split, text, str(first), len(affected), values))
    split.unit = "pixels"
    split.labels = {
        source.level.names[label]: int(pixels[source.table == label].sum())
        for label in np.unique(source.table[source.table >= 0]).tolist()
    }
    split.unknown = int(pixels[source.table == IGNORE].sum())


def _scan_photos(
    source: Source, split: SplitReport, report: Report, mask_sizes: dict[Path, tuple[int, int]], count: _Counter
) -> None:
    """Decode every photo; find those that cannot be read or differ in size from their mask."""
    sizes = []
    for photo in source.photos:
        count.step()
        try:
            size = source.read_photo(photo).size
        except UpernetError as error:
            report.problems.append(Problem(source.name, split.split, str(error), str(photo.path)))
            continue
        sizes.append(size)
        if isinstance(source, MaskFolder) and photo.path in mask_sizes:
            problem = source.size_problem(photo, mask_sizes[photo.path], size)
            if problem:
                report.problems.append(Problem(source.name, split.split, problem, str(photo.mask)))
    if sizes:
        split.widths, split.heights = (_spread(list(side)) for side in zip(*sizes, strict=True))


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), median_low(values), max(values)
