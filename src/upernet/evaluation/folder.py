"""The folder of an evaluation: its scores, what was counted, and what shows the mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from PIL import Image

from upernet.errors import UpernetError, printable
from upernet.evaluation import page
from upernet.evaluation.examples import draw_photos, worst_photos
from upernet.evaluation.figures import draw_confusion, draw_reliability, write_confusion_csv
from upernet.evaluation.photo_counts import LevelCounts, PhotoCounts
from upernet.evaluation.report import SUMMARY, fraction
from upernet.evaluation.results import EvaluationResult, LevelMetrics, ReliabilityBin
from upernet.evaluation.subject import Subject
from upernet.evaluation.tables import CLASS_COLUMNS, PHOTO_COLUMNS, Row, class_rows, photo_rows, write_csv
from upernet.files import atomic_path, write_text

SCORES, COUNTS, INDEX = "scores.json", "photos.npz", "index.html"
WORST = 12
"""Number of photos per level that are drawn."""
WIDEST_ON_PAGE = 1600
"""Widest picture on the page in pixels; the files beside it keep their size."""


def write_evaluation(folder: str | Path, result: EvaluationResult, title: str, subject: Subject | None = None) -> Path:
    """Write an evaluation to a folder.

    * `scores.json`: the scores, and `photos.npz`: what was counted in each photo (`read_evaluation` reads both);
    * `per_class.csv` and `photos.csv`: scores per class and per photo;
    * `confusion-LEVEL.png` and `.csv`, and `calibration-LEVEL.png`;
    * `worst-LEVEL/`: the photos with the largest share of wrong pixels, with truth and prediction;
    * `index.html`: all of it on one page.

    Args:
        folder: The folder; files of an earlier evaluation in it are replaced.
        result: Result of `upernet.evaluate`.
        title: Heading of the page.
        subject: What was evaluated; None: no photos are drawn.

    Returns:
        The path of the page.

    Raises:
        UpernetError: A file cannot be written, or `result` was read from a JSON file, which lacks the counts.
    """
    folder = Path(folder)
    counts = counts_of(result)
    write_text(folder / SCORES, json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    counts.save(folder / COUNTS)
    classes: list[Row] = []
    photos: list[Row] = []
    sections = [_summary(result)]
    for level in counts.levels:
        photos += photo_rows(counts, level)
        if counts.scored(level):
            metrics = result.levels[level.level]
            rows = class_rows(counts, level, metrics)
            classes += rows
            sections += [
                page.heading(level.title[:1].upper() + level.title[1:]),
                *_write_level(folder, counts, level, metrics, rows),
            ]
            if subject is not None:
                sections += _write_worst(folder, result, counts, level, subject)
    write_csv(folder / "per_class.csv", CLASS_COLUMNS, classes)
    write_csv(folder / "photos.csv", PHOTO_COLUMNS, photos)
    write_text(folder / INDEX, page.page(title, sections))
    return folder / INDEX


def read_evaluation(folder: str | Path) -> EvaluationResult:
    """Read the scores and the counts that `write_evaluation` wrote.

    Raises:
        UpernetError: A file is missing or broken.
    """
    path = Path(folder) / SCORES
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise UpernetError(f"{path}: cannot be read ({reason}); write it with `upernet evaluate --out`.") from None
    if not isinstance(values, dict):
        raise UpernetError(f"{path}: not the scores of an evaluation; write them with `upernet evaluate --out`.")
    counts = PhotoCounts.load(Path(folder) / COUNTS)
    return replace(EvaluationResult.from_dict(cast("dict[str, Any]", values)), counts=counts)


def counts_of(result: EvaluationResult) -> PhotoCounts:
    """Return what was counted in each photo.

    Raises:
        UpernetError: The result was read from JSON alone.
    """
    if result.counts is None:
        raise UpernetError("the scores alone do not tell what was counted in each photo; evaluate the model again.")
    return result.counts


def _summary(result: EvaluationResult) -> str:
    photos = ", ".join(f"{count:,} of {source}" for source, count in result.photos.items())
    rows = [
        [f"{name.capitalize()}: {SUMMARY[key]}", fraction(value)]
        for name, metrics in result.levels.items()
        for key, value in metrics.to_dict().items()
        if key in SUMMARY
    ]
    return page.paragraph(f"Photos of split {result.split}: {photos}.") + page.table(["metric", "value"], rows)


def _write_level(
    folder: Path, counts: PhotoCounts, level: LevelCounts, metrics: LevelMetrics, rows: list[Row]
) -> list[str]:
    name = _file_name(level)
    matrix = level.matrix(counts.scored(level))
    confusion = draw_confusion(matrix, level.names, level.unit)
    _save(folder / f"confusion-{name}.png", confusion)
    write_confusion_csv(folder / f"confusion-{name}.csv", matrix, [printable(label) for label in level.names])
    figures = [page.picture(confusion, "Confusion matrix")]
    ece, bins = _reliability(metrics, level)
    if ece is not None:
        calibration = draw_reliability(bins, ece)
        _save(folder / f"calibration-{name}.png", calibration)
        figures.append(page.picture(calibration, "Calibration"))
    columns = [key for key in CLASS_COLUMNS[1:] if key != "unit" and any(row[key] is not None for row in rows)]
    heads = [column.replace("_", " ").replace("iou", "IoU").replace("f1", "F1") for column in columns]
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    return [page.row(figures), page.heading(f"Classes, in {level.unit}", 3), page.table(heads, cells)]


def _write_worst(
    folder: Path, result: EvaluationResult, counts: PhotoCounts, level: LevelCounts, subject: Subject
) -> list[str]:
    worst = worst_photos(counts, level, WORST)
    figures: list[str] = []
    place = folder / f"worst-{_file_name(level)}"
    for old in place.glob("[0-9][0-9].jpg"):
        old.unlink()
    pictures = draw_photos(subject, result.split, counts, level, worst, result.testing)
    for number, (photo, drawn) in enumerate(pictures, 1):
        _save(place / f"{number:02d}.jpg", drawn)
        if drawn.width > WIDEST_ON_PAGE:
            drawn = drawn.resize((WIDEST_ON_PAGE, round(drawn.height * WIDEST_ON_PAGE / drawn.width)))
        figures.append(page.picture(drawn, photo.key, photo=True))
    if not figures:
        return [page.paragraph("No photo has a mistake.")]
    return [page.heading("Worst photos", 3), *([page.row(figures)] if level.kind == "labels" else figures)]


def _reliability(metrics: LevelMetrics, level: LevelCounts) -> tuple[float | None, tuple[ReliabilityBin, ...]]:
    if level.kind == "labels":
        return (metrics.labels.top1_ece, metrics.labels.top1_reliability) if metrics.labels else (None, ())
    found = metrics.parts if level.kind == "parts" else metrics.pixels
    return (found.ece, found.reliability) if found else (None, ())


def _file_name(level: LevelCounts) -> str:
    return level.title.replace(" (image labels)", "-labels")


def _save(path: Path, image: Image.Image) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, quality=90)


def _cell(value: object) -> object:
    if isinstance(value, float) or value is None:
        return fraction(value)
    return f"{value:,}" if isinstance(value, int) else value
