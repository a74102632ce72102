"""Tables of an evaluation as CSV files: one row per class, and one row per photo."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from upernet.errors import cell_text
from upernet.evaluation.examples import photo_accuracy
from upernet.evaluation.metrics import numbers
from upernet.evaluation.photo_counts import LevelCounts, PhotoCounts
from upernet.evaluation.results import LevelMetrics
from upernet.files import write_text

CLASS_COLUMNS = (
    "level",
    "class",
    "unit",
    "photos",
    "true",
    "predicted",
    "correct",
    "iou",
    "precision",
    "recall",
    "f1",
    "boundary_iou",
)
PHOTO_COLUMNS = ("photo", "source", "level", "unit", "counted", "accuracy", "miou", "classes", "true", "predicted")
Row = dict[str, object]


def class_rows(counts: PhotoCounts, level: LevelCounts, metrics: LevelMetrics) -> list[Row]:
    """Return one row per scored class of a level, with the keys `CLASS_COLUMNS`.

    `true`, `predicted` and `correct` are numbers of pixels or, with image labels, of photos; `photos` is the number of
    photos with the class in their truth.
    """
    photos = counts.scored(level)
    matrix = level.matrix(photos)
    in_photos = (level.totals(photos)[0] > 0).sum(0)
    values = {"iou": matrix.iou(), "precision": matrix.precision(), "recall": matrix.accuracy(), "f1": matrix.f1()}
    boundary = metrics.pixels.per_class if metrics.pixels and level.kind == "pixels" else {}
    columns = {key: numbers(column) for key, column in values.items()}
    return [
        {
            "level": level.level,
            "class": level.names[c],
            "unit": level.unit,
            "photos": int(in_photos[c]),
            "true": int(matrix.support[c]),
            "predicted": int(matrix.predicted[c]),
            "correct": int(matrix.correct[c]),
            **{key: column[c] for key, column in columns.items()},
            "boundary_iou": boundary[level.names[c]].boundary_iou if level.names[c] in boundary else None,
        }
        for c in level.scored_classes
    ]


def photo_rows(counts: PhotoCounts, level: LevelCounts) -> list[Row]:
    """Return one row per photo with labels of a level, with the keys `PHOTO_COLUMNS`.

    `accuracy` is the share of the counted pixels that is right, `miou` the mean IoU of the `classes` in the truth of
    the photo. Image labels have `true` and `predicted` instead.
    """
    photos = level.photos()
    totals = level.totals(photos)
    true, predicted, correct = totals[..., level.scored_classes]
    occurs = true > 0
    iou = np.where(occurs, correct / np.maximum(true + predicted - correct, 1), 0.0)
    classes = occurs.sum(1)
    accuracy = photo_accuracy(level, photos)
    rows: list[Row] = []
    for number, index in enumerate(photos):
        photo = counts.photos[index]
        row: Row = {
            "photo": photo.key,
            "source": photo.source,
            "level": level.level,
            "unit": level.unit,
            "counted": int(true[number].sum()),
            "accuracy": float(accuracy[number]),
        }
        if level.kind == "labels":
            row |= {
                name: level.names[int(totals[side, number].argmax())] for side, name in enumerate(("true", "predicted"))
            }
        elif classes[number]:
            row |= {"miou": float(iou[number].sum() / classes[number]), "classes": int(classes[number])}
        rows.append(row)
    return rows


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV; missing values are empty, and control characters and formulas are escaped.

    Raises:
        UpernetError: The file cannot be written.
    """
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    write_text(path, content.getvalue())


def _cell(value: object) -> object:
    return cell_text(value) if isinstance(value, str) else "" if value is None else value
