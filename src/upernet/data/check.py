"""A check of the data of a recipe before training: masks first, then every photo."""

# The stubs of numpy and torch leave the types of many arrays unknown.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from upernet.data.sources import Source, SourceMissing, list_source
from upernet.data.sources.annotations import ImageLabels, Masks
from upernet.errors import UpernetError
from upernet.recipe import Recipe, SourceSpec
from upernet.taxonomy import IGNORE, Taxonomy, load_taxonomy

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """A problem in the data: where it is, and one sentence with the fix."""

    source: str
    split: str
    text: str
    file: str = ""
    """The first file that has it."""
    count: int = 1
    """Number of files that have it."""
    values: tuple[int, ...] = ()
    """Mask values that are not mapped."""


@dataclass
class SplitReport:
    """The contents of one level in one split of a source."""

    source: str
    split: str
    level: str
    photos: int = 0
    unit: str = "photos"
    """Unit of `labels`: `pixels` or `photos`."""
    labels: dict[str, int] = field(default_factory=dict)
    """class of the taxonomy -> count, for every class that the source maps to."""
    unknown: int = 0
    """Number of pixels or photos that are unknown."""
    widths: tuple[int, int, int] | None = None
    """Smallest, median and largest width of the upright photos in pixels."""
    heights: tuple[int, int, int] | None = None
    """The same of their heights."""


@dataclass
class Report:
    """The result of `check`."""

    recipe: str
    data: str
    splits: list[SplitReport] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Sentences on splits that do not exist."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report, with `ok`, as values that JSON can hold."""
        return {"ok": self.ok, **asdict(self)}


def check(recipe: Recipe, data_dir: str | Path, progress: Progress | None = None) -> Report:
    """Read every mask, then every photo, in all splits of the sources of a recipe; no file changes.

    A folder that does not exist is listed under `missing`. It is a problem only if a stage trains on it.

    Args:
        recipe: The recipe.
        data_dir: Directory with the data sets.
        progress: Called with the number of files read and the number of all files.

    Raises:
        UpernetError: The data directory, the taxonomy, or every folder of the sources is missing.
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
    count = _Counter(sum(len(source) * (1 + len(source.masks)) for source in opened), progress)
    mask_sizes: dict[Path, tuple[int, int]] = {}
    for source in opened:
        for level, masks in source.masks.items():
            split = _scan_masks(source, level, masks, report, mask_sizes, count)
            report.splits.append(split)
        for level, labels in source.labels.items():
            report.splits.append(_count_photos(source, level, labels))
    for source in opened:
        _scan_photos(source, report, mask_sizes, count)
    return report


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def step(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


def _open_all(recipe: Recipe, taxonomy: Taxonomy, data_dir: Path, report: Report) -> list[Source]:
    """List every split of every source, and report problems that the names of the files show."""
    trained = {name for stage in (recipe.training.stages if recipe.training else ()) for name in stage.sources}
    opened: list[Source] = []
    for name, spec in recipe.sources.items():
        reported: set[str] = set()  # a wrong mapping is wrong for every split, and is reported once
        for split in _splits(spec):
            try:
                source = list_source(name, spec, taxonomy, data_dir, split)
            except SourceMissing as error:
                report.missing.append(str(error))
                if split == "train" and name in trained:
                    report.problems.append(Problem(name, split, str(error)))
                continue
            except UpernetError as error:
                if str(error) not in reported:
                    report.problems.append(Problem(name, split, str(error)))
                reported.add(str(error))
                continue
            for text in source.problems():
                report.problems.append(Problem(name, split, text))
            if split != "held_back" or "held_back" in spec.splits:
                for folder in source.empty_folders():
                    text = f"{folder}: the class folder holds no photos; add some or remove the folder."
                    report.problems.append(Problem(name, split, text, str(folder)))
            opened.append(source)
    return opened


def _splits(spec: SourceSpec) -> list[str]:
    held_back = ["held_back"] if spec.held_back and "train" in spec.splits and "held_back" not in spec.splits else []
    names = [*spec.splits, *held_back]
    return [name for name in ("train", "held_back", "val", "test") if name in names]


def _count_photos(source: Source, level: str, labels: ImageLabels) -> SplitReport:
    """Count the photos of each class."""
    found = np.array([photo.labels.get(level, IGNORE) for photo in source.photos], dtype=np.int64)
    counts = np.bincount(found[found != IGNORE], minlength=len(labels.level.names))
    targets = set((labels.spec.classes or {}).values())
    return SplitReport(
        source.name,
        source.split,
        level,
        len(source),
        labels={
            name: int(count) for name, count in zip(labels.level.names, counts, strict=True) if count or name in targets
        },
        unknown=int((found == IGNORE).sum()),
    )


def _scan_masks(
    source: Source, level: str, masks: Masks, report: Report, sizes: dict[Path, tuple[int, int]], count: _Counter
) -> SplitReport:
    """Count the pixels of each class; report masks that cannot be read or have values outside the mapping."""
    pixels = np.zeros(len(masks.table), dtype=np.int64)
    outside: dict[int, list[Path]] = {}
    for photo in source.photos:
        count.step()
        if level not in photo.masks:
            continue  # `Source.problems` reports it
        file = photo.masks[level]
        try:
            mask = source.read_mask(photo, level)
        except UpernetError as error:
            report.problems.append(Problem(source.name, source.split, str(error), str(file)))
            continue
        sizes[file] = (mask.shape[1], mask.shape[0])
        for value in masks.unmapped_values(mask):
            outside.setdefault(value, []).append(file)
        found = np.bincount(mask[(mask >= 0) & (mask < len(pixels))])
        pixels[: len(found)] += found
    if outside:
        affected = {file for files in outside.values() for file in files}
        first = min(affected)
        values = tuple(sorted(outside))
        text = f"{first}: {masks.outside(values)}"
        report.problems.append(Problem(source.name, source.split, text, str(first), len(affected), values))
    labels = np.unique(masks.table[masks.table >= 0])
    return SplitReport(
        source.name,
        source.split,
        level,
        len(source),
        unit="pixels",
        labels={masks.level.names[label]: int(pixels[masks.table == label].sum()) for label in map(int, labels)},
        unknown=int(pixels[masks.table == IGNORE].sum()),
    )


def _scan_photos(source: Source, report: Report, mask_sizes: dict[Path, tuple[int, int]], count: _Counter) -> None:
    """Decode every photo; report those that cannot be read or differ in size from a mask."""
    sizes: list[tuple[int, int]] = []
    for photo in source.photos:
        count.step()
        try:
            size = source.read_photo(photo).size
        except UpernetError as error:
            report.problems.append(Problem(source.name, source.split, str(error), str(photo.path)))
            continue
        sizes.append(size)
        for level, file in photo.masks.items():
            if file in mask_sizes and (problem := source.size_problem(photo, level, mask_sizes[file], size)):
                report.problems.append(Problem(source.name, source.split, problem, str(file)))
    if sizes:
        widths, heights = (_spread([size[side] for size in sizes]) for side in (0, 1))
        for split in report.splits:
            if (split.source, split.split) == (source.name, source.split):
                split.widths, split.heights = widths, heights


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), median_low(values), max(values)
