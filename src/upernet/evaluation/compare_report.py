"""Tables of a comparison for a terminal that is 80 columns wide, and its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from upernet.errors import printable
from upernet.evaluation import page
from upernet.evaluation.compare import Comparison, Difference, LevelComparison
from upernet.evaluation.report import SUMMARY, fraction
from upernet.evaluation.tables import Row, write_csv
from upernet.files import write_text

HEADINGS = ("class", "A", "B", "B - A", "95 % interval", "")
CSV_COLUMNS = ("level", "class", "first", "second", "difference", "low", "high", "significant")
PHOTO_COLUMNS = ("level", "photo", "first", "second", "difference")
MARK = "*"
FEW_PHOTOS = 30
"""With fewer photos, the intervals of a bootstrap are too narrow."""


def comparison_tables(comparison: Comparison) -> list[Group]:
    """Return one table per level; the first row is the level's own metric."""
    groups: list[Group] = []
    for level in comparison.levels:
        table = Table()
        table.add_column(HEADINGS[0], overflow="fold", min_width=12)
        for heading in HEADINGS[1:]:
            table.add_column(heading, justify="right", no_wrap=True)
        for number, cells in enumerate(_rows(level)):
            table.add_row(*map(Text, cells), end_section=number == 0)
        groups.append(Group(Text(f"{level.title}, {level.photos:,} photos", style="bold"), table, ""))
    return groups


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences that explain the tables."""
    found = [
        *comparison.remarks,
        f"{MARK} marks differences whose 95 % interval leaves out 0, by paired bootstrap over the photos "
        f"({comparison.resamples:,} samples, seed {comparison.seed}).",
    ]
    fewest = min((level.photos for level in comparison.levels), default=0)
    if fewest < FEW_PHOTOS:
        photos = "photo" if fewest == 1 else "photos"
        found.append(f"With only {fewest} {photos}, the intervals are too narrow: do not rely on the marks.")
    if not comparison.same_testing:
        found.append("The models were evaluated with different test-time augmentation.")
    return found


def write_comparison(folder: Path, comparison: Comparison, first: str, second: str) -> Path:
    """Write `comparison.json`, `comparison.csv`, `photos.csv` and `index.html`, and return the path of the page.

    Args:
        folder: The folder.
        comparison: Result of `compare`.
        first: Name of the first model.
        second: Name of the second model.

    Raises:
        UpernetError: A file cannot be written.
    """
    rows: list[Row] = []
    photos: list[Row] = []
    sections = [page.paragraph(f"A: {first}"), page.paragraph(f"B: {second}"), page.paragraph(_data(comparison))]
    for level in comparison.levels:
        rows += [_csv_row(level, name, found) for name, found in _differences(level)]
        for key, a, b in level.per_photo:
            photos.append({"level": level.title, "photo": key, "first": a, "second": b, "difference": b - a})
        sections += [page.heading(f"{level.title}, {level.photos:,} photos"), page.table(HEADINGS, _rows(level))]
    sections += [page.paragraph(note) for note in notes(comparison)]
    value = {"first": first, "second": second, **comparison.to_dict()}
    write_text(folder / "comparison.json", json.dumps(value, indent=2, allow_nan=False) + "\n")
    write_csv(folder / "comparison.csv", CSV_COLUMNS, rows)
    write_csv(folder / "photos.csv", PHOTO_COLUMNS, photos)
    write_text(folder / "index.html", page.page("Comparison", sections))
    return folder / "index.html"


def _data(comparison: Comparison) -> str:
    return f"Photos of split {comparison.split}."


def _differences(level: LevelComparison) -> Iterator[tuple[str, Difference]]:
    yield SUMMARY[level.metric], level.total
    yield from level.per_class.items()


def _rows(level: LevelComparison) -> Iterator[tuple[str, ...]]:
    for name, found in _differences(level):
        interval = "-" if found.interval is None else f"{found.interval[0]:+.3f} to {found.interval[1]:+.3f}"
        difference = "-" if found.difference is None else f"{found.difference:+.3f}"
        mark = MARK if found.is_significant else ""
        yield printable(name), fraction(found.first), fraction(found.second), difference, interval, mark


def _csv_row(level: LevelComparison, name: str, found: Difference) -> Row:
    low, high = found.interval or (None, None)
    return {
        "level": level.title,
        "class": name,
        "first": found.first,
        "second": found.second,
        "difference": found.difference,
        "low": low,
        "high": high,
        "significant": found.is_significant,
    }
