"""Scan the data of a recipe before training: the labels of each level first, then every photo."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from upernet.data.sources import LevelLabels, LevelMasks, Source, SourceMissing, list_source
from upernet.data.sources.annotation import size_problem
from upernet.data.sources.mapping import OUTSIDE
from upernet.errors import UpernetError
from upernet.recipe import FolderSpec, Recipe
from upernet.taxonomy import IGNORE, Taxonomy

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """A problem in the data: its place, and one sentence with the fix."""

    source: str
    """A source of the recipe, or `recipe`: a setting that training would refuse."""
    split: str
    """Empty for the recipe."""
    text: str
    file: str = ""
    """The first file that has it."""
    count: int = 1
    """Number of files that have it."""
    values: tuple[int, ...] = ()
    """Mask values that are not mapped."""


@dataclass
class SplitReport:
    """The labels of one level in one split of a source."""

    source: str
    split: str
    level: str
    photos: int = 0
    annotated: int = 0
    """Photos with a label or a readable mask of this level."""
    unit: str = "photos"
    """Unit of `labels`: `pixels` or `photos`."""
    labels: dict[str, int] = field(default_factory=dict[str, int])
    """Class of the taxonomy -> count, for every class that the source maps to."""
    unknown: int = 0
    """Number of pixels or photos that are mapped to unknown; masks that do not exist are not counted."""
    partial: int = 0
    """Number of pixels that are mapped to several classes, or to none of the source's classes."""
    widths: tuple[int, int, int] | None = None
    """Smallest, median and largest width of the upright photos in pixels."""
    heights: tuple[int, int, int] | None = None


@dataclass
class Report:
    """The result of `check`."""

    recipe: str
    data: str
    splits: list[SplitReport] = field(default_factory=list[SplitReport])
    missing: list[str] = field(default_factory=list[str])
    """Missing splits, one sentence each."""
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types, with `ok`."""
        return {"ok": self.ok, **asdict(self)}


def check(recipe: Recipe, data_dir: str | Path, progress: Progress | None = None) -> Report:
    """Read every mask, then every photo, of all splits of a recipe's sources; change nothing on disk.

    A missing folder is listed under `missing`; it is a problem only if a stage trains on it.

    Args:
        recipe: The recipe.
        data_dir: Directory that contains the folders of its sources.
        progress: Called with the number of files read and of files in all.

    Raises:
        UpernetError: The data directory, the taxonomy, or every source's folder is missing.
    """
    data_dir = Path(data_dir)
    if not os.path.isdir(data_dir):
        raise UpernetError(f"{data_dir}: no such folder; give the directory that holds the data sets.")
    if not recipe.sources:
        raise UpernetError(f"recipe {recipe.name} has no sources; list its data under sources.")
    taxonomy = recipe.load_taxonomy()
    report = Report(recipe.name, str(data_dir))
    opened = _open_all(recipe, taxonomy, data_dir, report)
    if not opened and not report.problems:
        raise UpernetError(f"{data_dir}: holds none of the folders of recipe {recipe.name}: {report.missing[0]}")
    count = _Counter(sum(len(split.source) * (1 + len(split.masks)) for split in opened), progress)
    for split in opened:
        for annotation in split.source.annotations.values():
            if isinstance(annotation, LevelMasks):
                _scan_masks(split, annotation, report, count)
            elif isinstance(annotation, LevelLabels):
                _count_photos(split, annotation)
    for split in opened:
        _scan_photos(split, report, count)
    return report


@dataclass
class _OpenedSplit:
    """A split of a source and what is reported of each of its levels."""

    source: Source
    levels: dict[str, SplitReport]
    mask_sizes: dict[tuple[Path, str], tuple[int, int]] = field(default_factory=dict[tuple[Path, str], tuple[int, int]])
    """(Photo, level) -> width and height of its mask."""

    @property
    def masks(self) -> list[LevelMasks]:
        return [found for found in self.source.annotations.values() if isinstance(found, LevelMasks)]

    def problem(self, text: str, file: object = "", count: int = 1, values: tuple[int, ...] = ()) -> Problem:
        return Problem(self.source.name, self.source.split, text, str(file), count, values)


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def step(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


def _open_all(recipe: Recipe, taxonomy: Taxonomy, data_dir: Path, report: Report) -> list[_OpenedSplit]:
    """List every split of every source, and report the problems that show without reading masks and photos."""
    trained = {name for stage in (recipe.training.stages if recipe.training else ()) for name in stage.sources}
    opened: list[_OpenedSplit] = []
    for name, spec in recipe.sources.items():
        told: set[str] = set()  # a wrong mapping is wrong for every split: say it once
        for split in spec.split_names:
            try:
                source = list_source(name, spec, taxonomy, data_dir, split, recipe.sources)
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
            report.problems += [Problem(name, split, text) for text in source.problems()]
            if not isinstance(spec, FolderSpec) or split in spec.splits:
                for folder in source.empty_folders():
                    text = f"{folder}: the class folder holds no photos; add some or remove the folder."
                    report.problems.append(Problem(name, split, text, str(folder)))
            levels = {level: SplitReport(name, split, level, len(source)) for level in source.annotated_levels}
            opened.append(_OpenedSplit(source, levels))
            report.splits += levels.values()
    return opened


def _count_photos(split: _OpenedSplit, annotation: LevelLabels) -> None:
    """Count photos per class."""
    names = annotation.level.names
    labels = [photo.labels.get(annotation.level.name, IGNORE) for photo in split.source.photos]
    counts = np.bincount([label for label in labels if label != IGNORE], minlength=len(names))
    targets = {target for target in annotation.spec.classes.values() if isinstance(target, str)}
    level = split.levels[annotation.level.name]
    level.labels = {name: int(count) for name, count in zip(names, counts, strict=True) if count or name in targets}
    level.unknown = labels.count(IGNORE)
    level.annotated = len(labels) - level.unknown


def _scan_masks(split: _OpenedSplit, annotation: LevelMasks, report: Report, count: _Counter) -> None:
    """Count pixels per class, and find masks that cannot be read or have values outside the mapping."""
    table, names = annotation.table, annotation.level.names
    level = split.levels[annotation.level.name]
    pixels = np.zeros(len(table), dtype=np.int64)
    outside: dict[int, list[Path]] = {}
    unreadable: dict[str, list[Path]] = {}
    for photo in split.source.photos:
        count.step()
        path = photo.masks[annotation.level.name]
        if path is None:
            continue  # Source.problems says so, unless the level is optional
        try:
            mask = annotation.read(photo, path)
        except UpernetError as error:
            unreadable.setdefault(str(error).replace(str(path), ""), []).append(path)
            continue
        level.annotated += 1
        split.mask_sizes[photo.path, annotation.level.name] = (mask.shape[1], mask.shape[0])
        for value in annotation.unmapped_values(mask):
            outside.setdefault(value, []).append(path)
        inside = mask[(mask >= 0) & (mask < len(pixels))]
        found = np.bincount(inside)
        pixels[: len(found)] += found
    for text, paths in unreadable.items():  # what is wrong with many masks is said once
        report.problems.append(split.problem(f"{paths[0]}{text}", paths[0], len(paths)))
    if outside:
        affected = {mask for masks in outside.values() for mask in masks}
        first = min(affected)
        text = f"{first}: {annotation.explain_unmapped(sorted(outside))}"
        report.problems.append(split.problem(text, first, len(affected), tuple(sorted(outside))))
    level.unit = "pixels"
    level.labels = {names[label]: int(pixels[table == label].sum()) for label in np.unique(table[table >= 0]).tolist()}
    level.unknown = int(pixels[table == IGNORE].sum())
    level.partial = int(pixels[(table < IGNORE) & (table != OUTSIDE)].sum())


def _scan_photos(split: _OpenedSplit, report: Report, count: _Counter) -> None:
    """Decode every photo; find those that cannot be read or differ in size from their masks."""
    sizes: list[tuple[int, int]] = []
    pseudo: list[str] = []
    for photo in split.source.photos:
        count.step()
        try:
            size = split.source.read_photo(photo).size
        except UpernetError as error:
            report.problems.append(split.problem(str(error), photo.path))
            continue
        sizes.append(size)
        for level, mask in photo.masks.items():
            mask_size = split.mask_sizes.get((photo.path, level))
            problem = size_problem(mask, photo, mask_size, size) if mask and mask_size else None
            if problem:
                report.problems.append(split.problem(problem, mask))
        pseudo += split.source.pseudo_label_problems(photo, size)
    if pseudo:
        report.problems.append(split.problem(pseudo[0], count=len(pseudo)))
    if sizes:
        for level in split.levels.values():
            level.widths, level.heights = (_spread(list(side)) for side in zip(*sizes, strict=True))


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), median_low(values), max(values)
