"""Tables of image labels: CSV files with a header, or JSONL files with one object per line."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from upernet.data.images import is_photo
from upernet.data.sources.annotation import LevelLabels
from upernet.errors import UpernetError, shorten
from upernet.files import read_limited
from upernet.taxonomy import IGNORE

MAX_BYTES = 2**29
"""Bytes of the largest table: several million rows."""
FILE = "file"
"""Column with the path of the photo, relative to the folder of the table."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        place: `table:line`, for errors.
        photo: Path of the photo.
        classes: Column -> name of a class, or of a mask; empty: unknown.
    """

    place: str
    photo: Path
    classes: Mapping[str, str]

    def label(self, annotation: LevelLabels, column: str) -> int:
        """Return the label of `column`; `IGNORE` for unknown."""
        name = self.classes[column]
        return annotation.label_of(name, self.place) if name else IGNORE

    def mask(self, folder: Path, column: str) -> Path | None:
        """Return the mask that `column` names, below the folder of the table; None: there is none.

        Raises:
            UpernetError: It does not exist or lies outside the folder.
        """
        name = self.classes[column]
        return _image(self.place, folder, name, column, "mask") if name else None


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read the columns `file` and `columns` of a CSV or JSONL table (told apart by the ending), in order.

    Raises:
        UpernetError: The table is missing, is not UTF-8 (a byte order mark is fine), lacks a column, or has a row that
            is malformed, repeats a photo, or names a photo that does not exist or lies outside the table's folder.
    """
    read = {".csv": _read_csv, ".jsonl": _read_jsonl}.get(path.suffix.lower())
    if read is None:
        raise UpernetError(f"{path}: not a table; give a file that ends with .csv or .jsonl.")
    rows: list[Row] = []
    first_places: dict[Path, str] = {}
    for line, cells in read(path, _read_text(path), [FILE, *columns]):
        place = f"{path}:{line}"
        photo = _image(place, path.parent, cells[FILE], FILE, "photo")
        if photo in first_places:
            earlier = first_places[photo].rpartition(":")[2]
            raise UpernetError(
                f"{place}: lists {shorten(cells[FILE], 200)} again, after line {earlier}; keep one of the rows."
            )
        first_places[photo] = place
        rows.append(Row(place, photo, {column: cells[column] for column in columns}))
    return rows


def _read_text(path: Path) -> str:
    try:
        content = read_limited(path, MAX_BYTES)
    except FileNotFoundError:
        raise UpernetError(f"{path}: no such file; put the table of labels there or correct `table`.") from None
    except (OSError, ValueError) as error:
        raise UpernetError(f"{path}: cannot be read ({error}); check the name and the file.") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UpernetError(f"{path}:{line}: is not UTF-8 text; save the table as UTF-8.") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UpernetError(f"{path}:{line}: contains a zero byte; save the table as UTF-8 text.")
    return text


def _read_csv(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells of each row."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UpernetError(f"{path}:{line}: is not a row of a CSV file ({error}); correct the line.") from None
        place, line = f"{path}:{line}", reader.line_num + 1
        if cells is None:
            break
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if header is None:
            header = cells
            for column in columns:
                if header.count(column) != 1:
                    raise UpernetError(f"{place}: {_column_problem(column, header)}.")
        elif len(cells) != len(header):
            raise UpernetError(
                f"{place}: has {len(cells)} cells, but the header has {len(header)}; quote cells that contain a comma."
            )
        else:
            yield int(place.rpartition(":")[2]), dict(zip(header, cells, strict=True))
    if header is None:
        raise UpernetError(f"{path}:1: is empty; expected a header with the columns {', '.join(columns)}.")


def _read_jsonl(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the values of each object, as text."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values: Any = json.loads(line, object_pairs_hook=_without_repeats)
        except _RepeatedKeyError as error:
            raise UpernetError(f"{path}:{number}: the key {error} appears twice; keep one.") from None
        except (ValueError, RecursionError):
            raise UpernetError(f"{path}:{number}: is not JSON; write one JSON object per line.") from None
        if not isinstance(values, dict):
            raise UpernetError(f"{path}:{number}: is not a JSON object; write one JSON object per line.")
        row = cast("dict[str, Any]", values)
        cells: dict[str, str] = {}
        for column in columns:
            if column not in row:
                raise UpernetError(f"{path}:{number}: {_column_problem(column, list(row))}.")
            value = row[column]
            if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
                raise UpernetError(f"{path}:{number}: the value of {column!r} is not text; write it as a string.")
            cells[column] = "" if value is None else str(value).strip()
        yield number, cells


class _RepeatedKeyError(ValueError):
    """A JSON object has a key twice; the text is the key."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(repr(next(key for key in keys if keys.count(key) > 1)[:40]))
    return values


def _column_problem(column: str, known: Sequence[str]) -> str:
    if column in known:
        return f"has several columns {column!r}; keep one"
    near = difflib.get_close_matches(column, known, n=1)
    hint = f" (did you mean {near[0][:40]!r}?)" if near else ""
    return f"has no column {column!r}{hint}; add it or correct the name of the column"


def _image(place: str, folder: Path, file: str, column: str, noun: str) -> Path:
    """Return the path of the photo or mask that a row names."""
    relative = PurePosixPath(file.replace("\\", "/"))
    if not relative.parts:
        raise UpernetError(f"{place}: names no {noun}; fill in the column {column!r}.")
    if relative.is_absolute() or ".." in relative.parts or ":" in relative.parts[0]:
        raise UpernetError(
            f"{place}: {shorten(file, 200)} is outside the folder of the table; give a path relative to that folder, "
            "without '..'."
        )
    path = folder / relative
    try:
        exists = path.is_file()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise UpernetError(f"{place}: there is no {noun} {shorten(file, 200)} in {folder}; add it or remove the row.")
    if not is_photo(path):
        raise UpernetError(f"{place}: {shorten(file, 200)} is not the name of a {noun}; give an image file.")
    return path
