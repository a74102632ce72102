"""Files about all photos of a run: summary.csv and coco.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from upernet.errors import cell_text, printable
from upernet.inference.manifest import Row
from upernet.inference.parse import Parse

SUMMARY_FILE = "summary.csv"
COCO_FILE = "coco.json"
FILES = frozenset((SUMMARY_FILE, COCO_FILE))


def summary_row(parse: Parse, content: Mapping[str, Any]) -> Row:
    """Return the row of a photo: its labels, their probabilities, and for each class its share of the photo.

    Args:
        parse: The parse.
        content: What `parse.to_dict` returns.
    """
    row: Row = {
        "path": parse.path or "",
        "folder": "" if parse.folder is None else str(parse.folder),
        "error": "",
        "width": parse.photo.width,
        "height": parse.photo.height,
    }
    for level, ranking in parse.rankings.items():
        row[level] = ranking[0][0] if parse.is_sure(level) else ""
        row[f"{level}_probability"] = round(ranking[0][1], 4)
    for level in parse.maps:
        row |= {f"{level}.{name}": round(share, 6) for name, share in content[level]["shares"].items()}
    return row


def summary_table(rows: Callable[[], Iterable[Row]]) -> str:
    """Return a table with one row per photo as CSV.

    The columns are: path, folder of the results, error, width, height; for each level with one label per photo, the
    label (empty where unsure) and the probability of the first one; and for each class that occurs, as LEVEL.CLASS, its
    share of the photo.

    Args:
        rows: Returns the rows; it is called twice, so that they need not be in memory.
    """
    columns: dict[str, None] = dict.fromkeys(("path", "folder", "error", "width", "height"))
    found: dict[str, None] = {}
    for row in rows():
        found.update(dict.fromkeys(row))
    names = sorted(name for name in found if "." in name)
    columns.update(dict.fromkeys(name for name in found if "." not in name))
    columns.update(dict.fromkeys(names))
    # A class that does not occur in a parsed photo has the share 0.
    zeros: Row = dict.fromkeys(names, 0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(printable, columns))
    for row in rows():
        whole = row if row.get("error") else {**zeros, **row}
        writer.writerow(_cell(whole.get(name, "")) for name in columns)
    return text.getvalue()


def _cell(value: str | int | float) -> str | int | float:
    return cell_text(value) if isinstance(value, str) else value
