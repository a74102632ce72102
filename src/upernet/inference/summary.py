"""Files about all photos of a run: summary.csv and coco.json."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from upernet.errors import UpernetError, cell_text, printable
from upernet.inference.exporting import CocoDataset
from upernet.inference.inputs import name_of
from upernet.inference.parse import Parse
from upernet.inference.saving import write_file
from upernet.inference.streaming import Outcome

SUMMARY_FILE = "summary.csv"
COCO_FILE = "coco.json"
FILES = frozenset((SUMMARY_FILE, COCO_FILE))

Row = dict[str, str | int | float]


class Summary:
    """A table with one row per photo, and, if asked for, a COCO data set of all.

    The columns are: path, folder of the results, error, width, height; for each level with one label per photo, the
    label (empty where unsure) and the probability of the first one; and for each class that occurs, as LEVEL.CLASS, its
    share of the photo.

    Args:
        coco: Whether to collect the data set.
    """

    def __init__(self, coco: bool = False):
        self.rows: list[Row] = []
        self.dataset = CocoDataset() if coco else None

    def add(self, outcome: Outcome) -> None:
        """Add what became of a photo.

        Raises:
            UpernetError: The data set needs a dense level, and the parse has none.
        """
        if isinstance(outcome.result, UpernetError):
            self.rows.append({"path": cell_text(name_of(outcome.photo)), "error": cell_text(outcome.result)})
            return
        self.rows.append(_row(outcome.result))
        if self.dataset is not None:
            self.dataset.add(outcome.result)

    def write(self, folder: Path) -> None:
        """Write coco.json, if asked for, and summary.csv, if there are several photos, to `folder`.

        Raises:
            UpernetError: The files cannot be written.
        """
        if self.dataset is not None:
            write_file(folder / COCO_FILE, json.dumps(self.dataset.to_dict(), allow_nan=False) + "\n")
        if len(self.rows) > 1:
            write_file(folder / SUMMARY_FILE, self._table())

    def _table(self) -> str:
        columns: dict[str, None] = dict.fromkeys(("path", "folder", "error", "width", "height"))
        names = sorted({name for row in self.rows for name in row if "." in name})
        columns.update(dict.fromkeys(name for row in self.rows for name in row if "." not in name))
        columns.update(dict.fromkeys(names))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        # A class that does not occur in a parsed photo has the share 0.
        zeros: Row = dict.fromkeys(names, 0)
        writer.writerows(row if row["error"] else {**zeros, **row} for row in self.rows)
        return text.getvalue()


def _row(parse: Parse) -> Row:
    row: Row = {
        "path": cell_text(parse.path or ""),
        "folder": "" if parse.folder is None else cell_text(parse.folder),
        "error": "",
        "width": parse.photo.width,
        "height": parse.photo.height,
    }
    for level, ranking in parse.rankings.items():
        row[level] = cell_text(ranking[0][0]) if parse.is_sure(level) else ""
        row[f"{level}_probability"] = round(ranking[0][1], 4)
    for level, label_map in parse.maps.items():
        row |= {f"{level}.{printable(name)}": round(share, 6) for name, share in label_map.shares().items()}
    return row
