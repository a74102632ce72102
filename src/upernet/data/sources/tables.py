"""Reading tables of image labels: CSV with a header, or JSON Lines. Their content is not trusted."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from upernet.errors import UpernetError

MAX_BYTES = 2**28
"""Largest table that is read."""


class Row(NamedTuple):
    """A row of a table."""

    line: int
    cells: dict[str, str | None]
    """Column -> label, or None for unknown."""


class LabelTable:
    """The rows of a table by photo.

    Args:
        path: A .csv file with a header, or a .jsonl file with an object per line; UTF-8.
        photo_column: The column with the path of the photo, relative to a folder.
        columns: The columns of the labels.

    Attributes:
        rows: path of the photo -> row.

    Raises:
        UpernetError: The file cannot be read, is neither of the two, lacks a column, lists a photo twice, or has a path
            that leads out of the folder.
    """

    def __init__(self, path: Path, photo_column: str, columns: Sequence[str]) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        for line, values in _read(path, [photo_column, *columns]):
            photo = values[photo_column]
            if not photo:
                raise UpernetError(f"{path}:{line}: the row names no photo; add its path under {photo_column}.")
            name = PurePosixPath(photo.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or "\0" in photo or ":" in name.parts[0]:
                raise UpernetError(f"{path}:{line}: {photo!r} leads out of the folder; give a path inside it.")
            key = name.as_posix()
            if key in self.rows:
                raise UpernetError(f"{path}:{line}: lists {key} again (first in line {self.rows[key].line}); keep one.")
            self.rows[key] = Row(line, {column: values[column] for column in columns})


def _read(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    try:
        if not path.is_file():
            raise UpernetError(f"{path}: no such table; add it, or correct `table` in the recipe.")
        if path.stat().st_size > MAX_BYTES:
            raise UpernetError(f"{path}: larger than {MAX_BYTES // 2**20} MiB; split the table.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UpernetError(f"{path}: cannot be read as UTF-8 text ({error}); save it again.") from None
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _read_json_lines(path, text, columns)
    if path.suffix.lower() == ".csv":
        return _read_csv(path, text, columns)
    raise UpernetError(f"{path}: neither a .csv nor a .jsonl file; save the table as one of them.")


def _read_csv(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, list[str]())]
        for column in columns:
            if header.count(column) != 1:
                found = ", ".join(header) or "nothing"
                raise UpernetError(f"{path}:1: the header must name the column {column!r} once (found: {found}).")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise UpernetError(f"{path}:{reader.line_num}: {len(cells)} cells, but the header has {len(header)}.")
            values = dict(zip(header, cells, strict=True))
            yield reader.line_num, {column: values[column].strip() or None for column in columns}
    except csv.Error as error:
        raise UpernetError(f"{path}:{reader.line_num}: not valid CSV ({error}); save the table again.") from None


def _read_json_lines(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise UpernetError(f"{path}:{number}: not valid JSON; write one object per line.") from None
        if not isinstance(value, dict):
            raise UpernetError(f"{path}:{number}: not an object; write one object per line.")
        values = cast(dict[str, Any], value)
        cells: dict[str, str | None] = {}
        for column in columns:
            cell = values.get(column)
            if column not in values or not (cell is None or isinstance(cell, str)):
                raise UpernetError(f"{path}:{number}: {column!r} must be a text or null.")
            cells[column] = (cell or "").strip() or None
        yield number, cells
