"""Tables of an evaluation result for a terminal that is 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from upernet.errors import printable
from upernet.evaluation.results import EvaluationResult, LevelMetrics
from upernet.evaluation.tta import TestTimeAugmentation

COLUMNS = {
    "iou": "IoU",
    "boundary_iou": "boundary",
    "accuracy": "accuracy",
    "pixels": "pixels",
    "top1": "top-1",
    "top5": "top-5",
    "photos": "photos",
}
"""Metric of a class -> heading of its column."""
WIDTH = 80
"""Columns of the terminal."""
SUMMARY = {
    "miou": "mIoU",
    "miou_with_background": "mIoU with background",
    "miou_given_object": "mIoU given the object",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "boundary_miou": "boundary mIoU",
    "ece": "calibration error",
    "top1": "top-1",
    "top5": "top-5",
    "top1_ece": "top-1 calibration error",
}
"""Metric of a level -> its name in the line above the table."""


def readable_metric(name: str) -> str:
    """Return what people call a metric of a level.

    Example:
        >>> readable_metric("object.miou")
        'object mIoU'
    """
    level, _, metric = name.rpartition(".")
    return f"{level} {SUMMARY.get(metric, metric)}".strip()


def tables(result: EvaluationResult) -> list[Group]:
    """Return one table per level, then one per source and level with implied labels.

    The first element is a line on test-time augmentation, if any was used.
    """
    levels = dict(result.levels)
    for source, implied in result.implied.items():
        levels |= {f"{name}, implied labels of {source}": metrics for name, metrics in implied.items()}
    return [*_augmentation(result.testing), *(_table(name, metrics) for name, metrics in levels.items())]


def _augmentation(tta: TestTimeAugmentation) -> list[Group]:
    used: list[str] = []
    if tta.scales != (1,):
        used.append("scales " + ", ".join(f"{scale:g}" for scale in tta.scales))
    if tta.flip:
        used.append("mirrored photos")
    if tta.window is not None:
        used.append(f"windows of {tta.window} pixels every {tta.stride} pixels")
    return [Group(Text(f"Test-time augmentation: {'; '.join(used)}."), "")] if used else []


def _table(heading: str, metrics: LevelMetrics) -> Group:
    """Return the level's own metrics, and a row for each class that counts in them."""
    values = metrics.to_dict()
    per_class: dict[str, dict[str, Any]] = values["per_class"]
    rows = {name: row for name, row in per_class.items() if row.get("iou") is not None or row.get("top1") is not None}
    columns = [key for key in COLUMNS if any(key in row for row in rows.values())]
    table = Table()
    table.add_column("class", overflow="fold", min_width=12)
    for key in columns:
        table.add_column(COLUMNS[key], justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(Text(printable(name)), *(_cell(row, key) for key in columns))
    summary = [f"{SUMMARY[key]} {fraction(values[key])}" for key in SUMMARY if key in values]
    return Group(Text(f"{heading}: {_wrapped(summary, len(heading) + 2)}", style="bold"), table, "")


def _wrapped(items: list[str], indent: int) -> str:
    """Join items with commas, on as many lines of 80 columns as they need; the first line begins after `indent`."""
    lines, room = [items[0]], WIDTH - indent
    for item in items[1:]:
        if len(lines[-1]) + len(item) + 3 <= room:
            lines[-1] += f", {item}"
        else:
            lines, room = [*lines, item], WIDTH - 2
    return ",\n  ".join(lines)


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return f"{value:,}" if key in ("pixels", "photos") and value is not None else fraction(value)


def fraction(value: float | None) -> str:
    """Return a number with three decimals, or "-" for None."""
    return "-" if value is None else f"{value:.3f}"
