"""The result of an evaluation as tables for a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

HEADINGS = {
    "iou": "IoU",
    "accuracy": "accuracy",
    "pixels": "pixels",
    "top1": "top-1",
    "top5": "top-5",
    "photos": "photos",
}
SENTENCES = {
    "miou": "mIoU",
    "miou_with_background": "mIoU with background",
    "miou_given_object": "mIoU given the object",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "top1": "top-1",
    "top5": "top-5",
}


def tables(result: dict[str, Any]) -> list[Group]:
    """One per level of what `evaluate` returned, then one per level that a source's labels imply.

    Before them stands how the photos were put through the network, unless it was once and whole.
    """
    levels = {name: values for name, values in result.items() if isinstance(values, dict) and "per_class" in values}
    for source, implied in result["weak"].items():
        levels |= {f"{name}, implied labels of {source}": values for name, values in implied.items()}
    return [*_passes(result["testing"]), *(_table(name, values) for name, values in levels.items())]


def _passes(testing: dict[str, Any]) -> list[Group]:
    """What was done, where it is not the plain one pass."""
    done = []
    if testing["scales"] != [1.0]:
        done.append("at scale " + ", ".join(f"{scale:g}" for scale in testing["scales"]))
    if testing["flip"]:
        done.append("mirrored, too")
    if testing["window"] is not None:
        done.append(f"in windows of {testing['window']} pixels, {testing['stride']} apart")
    return [Group(Text(f"Photos were seen {'; '.join(done)}."), "")] if done else []


def _table(heading: str, values: dict[str, Any]) -> Group:
    """The level's own scores, and a row per class that counts in them."""
    rows = {
        name: row
        for name, row in values["per_class"].items()
        if row.get("iou") is not None or row.get("top1") is not None
    }
    columns = [key for key in HEADINGS if any(key in row for row in rows.values())]
    table = Table()
    table.add_column("class", overflow="fold", min_width=12)
    for key in columns:
        table.add_column(HEADINGS[key], justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(_cell(key, row.get(key)) for key in columns))
    summary = ", ".join(f"{SENTENCES[key]} {_share(values[key])}" for key in SENTENCES if key in values)
    return Group(Text(f"{heading}: {summary}", style="bold"), table, "")


def _cell(key: str, value: float | int | None) -> str:
    return f"{value:,}" if key in ("pixels", "photos") and value is not None else _share(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
