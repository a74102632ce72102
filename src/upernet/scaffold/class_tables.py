"""Tables of class names, numbers and colors, in the forms that data sets come with."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from upernet.errors import UpernetError
from upernet.scaffold.listing import Listing

TABLE_WORDS = re.compile(
    r"(?i)(^|[\W_])(labels?|class(es)?|colou?rs?|palette|labelmap|label_map|categor(y|ies)|codes|names|legend|config|"
    r"dict|mapping|taxonomy)([\W_]|$)"
)
MAX_BYTES = 1_000_000
Color = tuple[int, int, int]


@dataclass(frozen=True)
class TableEntry:
    """A class: its name and, where the table gives them, the value and the color that it has in masks."""

    name: str
    value: int | None = None
    color: Color | None = None


@dataclass(frozen=True)
class ClassTable:
    """The classes that a file lists, in its order."""

    path: Path
    entries: Sequence[TableEntry]

    @property
    def only_names(self) -> bool:
        """Whether the file gives neither numbers nor colors."""
        return all(entry.value is None and entry.color is None for entry in self.entries)


def read_class_table(path: Path) -> ClassTable:
    """Read a table: JSON, CSV with a header, or lines such as `sky`, `0 sky`, `128 64 128 road`, `road:128,64,128::`.

    Raises:
        UpernetError: The file cannot be read, or has none of these forms.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it has more than 1 MB")
        text = path.read_text(encoding="utf-8-sig")
        entries = _from_json(json.loads(text)) if path.suffix.lower() == ".json" else _from_lines(text, path.suffix)
    except FileNotFoundError:
        raise UpernetError(f"{path}: no such file; give the file that lists the classes.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UpernetError(
            f"{path}: is not a list of classes ({error}); write one class per line: `sky`, `0 sky` or `128 64 128 sky`."
        ) from None
    return ClassTable(path, entries)


def find_class_tables(listing: Listing) -> Iterator[ClassTable]:
    """Yield the tables among the files of a folder whose names look like that of one."""
    for file in listing.texts:
        named = file.suffix == ".names" or TABLE_WORDS.search(file.stem)
        if named and file.suffix.lower() != ".xml" and len(file.parts) <= 4:
            try:
                yield read_class_table(listing.root / file)
            except UpernetError:
                continue  # it holds something else


def _from_lines(text: str, suffix: str) -> list[TableEntry]:
    lines = [line.strip() for line in text.splitlines()]
    comments = [line for line in lines if re.match(r"#(?![0-9a-fA-F]{6}\b)", line)]
    lines = [line for line in lines if line and line not in comments]
    if not lines:
        raise ValueError("it is empty")
    if suffix.lower() == ".csv":
        return _from_csv(lines)
    entries = [_from_line(line) for line in lines]
    if lines[0] == "__ignore__":  # Labelme: the classes are numbered from -1
        entries = [TableEntry(entry.name, number) for number, entry in enumerate(entries, -1)]
    return _checked(entries)


def _from_line(line: str) -> TableEntry:
    number = r"(\d{1,5})"
    gap = r"[\s,;:]+"
    forms = (
        (rf"{number}{gap}{number}{gap}{number}{gap}(\D.*)", (None, 3, 0)),  # 128 64 128 road
        (rf"{number}{gap}(\D.*?){gap}{number}{gap}{number}{gap}{number}", (0, 1, 2)),  # 7 road 128 64 128
        (rf"{number}{gap}{number}{gap}{number}{gap}{number}{gap}(\D.*)", (0, 4, 1)),  # 7 128 64 128 road
        (rf"(\D.*?){gap}{number}{gap}{number}{gap}{number}[:;,\s]*", (None, 0, 1)),  # road:128,64,128::
    )
    for form, (value, name, color) in forms:
        if match := re.fullmatch(form, line):
            found = match.groups()
            channels = tuple(int(part) for part in found[color : color + 3])
            if max(channels) <= 255:
                own = None if value is None else int(found[value])
                return TableEntry(_name(found[name]), own, (channels[0], channels[1], channels[2]))
    if match := re.fullmatch(r"(?:(\d{1,5})[\s,;:]+)?(.*?)[\s,;:]*(#[0-9a-fA-F]{6})[\s,;:]*(.*)", line):
        value, before, color, after = match.groups()
        return TableEntry(_name(before or after), int(value) if value else None, _hex(color))
    if match := re.fullmatch(r"(\d{1,5})(?:\s*[:,;=]\s*|\s+)(.*\D.*)", line):
        return TableEntry(_name(match[2]), int(match[1]))
    if match := re.fullmatch(r"(.*\D)(?:\s*[:,;=]\s*|\s+)(\d{1,5})", line):
        return TableEntry(_name(match[1]), int(match[2]))
    return TableEntry(_name(line))


def _from_csv(lines: Sequence[str]) -> list[TableEntry]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    header = [cell.lower() for cell in rows[0]]
    names = [
        position
        for position, cell in enumerate(header)
        if re.fullmatch(r"(class|label)?[_ ]?names?|label|class|category", cell)
    ]
    if not names:
        return _from_lines("\n".join(lines), ".txt")
    values = [
        i
        for i, cell in enumerate(header)
        if re.fullmatch(r"(class|label|train)?[_ ]?(id|index|idx|value|number)", cell)
    ]
    channels = [
        [i for i, cell in enumerate(header) if cell in (channel, channel[0])] for channel in ("red", "green", "blue")
    ]
    hexes = [i for i, cell in enumerate(header) if re.fullmatch(r"colou?r|hex|rgb", cell)]
    entries: list[TableEntry] = []
    for row in rows[1:]:
        if len(row) < len(header):
            raise ValueError(f"the row {','.join(row)[:60]!r} is too short")
        color = None
        if all(channels):
            color = _color([row[found[0]] for found in channels])
        elif hexes:
            color = _color(row[hexes[0]])
        entries.append(TableEntry(_name(row[names[0]]), int(row[values[0]]) if values else None, color))
    return _checked(entries)


def _from_json(values: Any) -> list[TableEntry]:
    if isinstance(values, dict):
        content = cast("dict[str, Any]", values)
        for key in ("labels", "classes", "categories", "items", "names"):
            if isinstance(content.get(key), (list, dict)):
                return _from_json(content[key])
        return _checked([_from_item(key, value) for key, value in content.items()])
    if not isinstance(values, list):
        raise ValueError("it lists no classes")
    entries: list[TableEntry] = []
    for item in cast("list[Any]", values):
        if isinstance(item, str):
            entries.append(TableEntry(_name(item)))
        elif isinstance(item, dict):
            entries.append(_from_object(cast("dict[str, Any]", item)))
        else:
            raise ValueError("it lists something other than classes")
    return _checked(entries)


def _from_item(key: str, value: Any) -> TableEntry:
    """Read an entry of an object such as `{"road": [128, 64, 128]}`, `{"0": "road"}` or `{"road": 0}`."""
    if isinstance(value, str) and key.isdecimal():
        return TableEntry(_name(value), int(key))
    if isinstance(value, int) and not isinstance(value, bool):
        return TableEntry(_name(key), value)
    if isinstance(value, dict):
        return _from_object({"name": key, **cast("dict[str, Any]", value)})
    if isinstance(value, str) and (color := re.fullmatch(r"\(?(\d+)[, ]+(\d+)[, ]+(\d+)\)?", key)):
        return TableEntry(_name(value), None, _color(color.groups()))
    return TableEntry(_name(key), None, _color(value))


def _from_object(item: dict[str, Any]) -> TableEntry:
    name = next(
        (item[key] for key in ("readable", "name", "label", "title", "class") if isinstance(item.get(key), str)), None
    )
    if name is None:
        raise ValueError("a class has no name")
    value = next((item[key] for key in ("id", "value", "index", "label_id") if type(item.get(key)) is int), None)
    color = next((item[key] for key in ("color", "colour", "rgb") if item.get(key)), None)
    return TableEntry(_name(name), value, None if color is None else _color(color))


def _checked(entries: Sequence[TableEntry]) -> list[TableEntry]:
    if not entries:
        raise ValueError("it is empty")
    if any(entry.value is not None and not -1 <= entry.value <= 65_535 for entry in entries):
        raise ValueError("a number is not the value of a mask")
    values = [entry.value for entry in entries if entry.value is not None]
    if len(set(values)) < len(values):
        raise ValueError("a number appears twice")
    if any(len(entry.name) > 80 for entry in entries):
        raise ValueError("a name has more than 80 characters")
    return [TableEntry(entry.name, 255, entry.color) if entry.value == -1 else entry for entry in entries]


def _name(text: str) -> str:
    name = re.sub(r"\s+", " ", text.strip().strip("\"'").strip()).strip("_ ") if text.strip() else ""
    if not name or not name.isprintable():
        raise ValueError("a class has no name")
    return name


def _color(value: Any) -> Color:
    if isinstance(value, str):
        if re.fullmatch(r"#?[0-9a-fA-F]{6}", value):
            return _hex(value)
        value = re.findall(r"\d+", value)
    channels = [int(part) for part in cast("Iterable[Any]", value)] if isinstance(value, (list, tuple)) else []
    if len(channels) not in (3, 4) or not all(0 <= channel <= 255 for channel in channels):
        raise ValueError("something is not a color")
    return channels[0], channels[1], channels[2]


def _hex(text: str) -> Color:
    digits = text.removeprefix("#")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
