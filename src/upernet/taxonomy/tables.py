"""Tables of mappings that people edit: CSV with the columns level, class, to (and how), or YAML."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import yaml
from pydantic import RootModel

from upernet.errors import UpernetError, shorten
from upernet.files import read_limited, write_text
from upernet.settings import Name, read_settings
from upernet.taxonomy.levels import LEVELS, LevelName
from upernet.taxonomy.mapping import Table, TaxonomyMapping

COLUMNS = ("level", "class", "to", "how")
NEEDED = COLUMNS[:3]
MOST_BYTES = 2**24
SUFFIXES = (".csv", ".yaml", ".yml")


class _TableFile(RootModel[dict[LevelName, dict[Name, Name | None]]]):
    """Level -> class -> class or null."""


def read_table(path: Path) -> Table:
    """Read a table. In CSV, an empty `to` means that the class has no counterpart; in YAML, null does.

    Raises:
        UpernetError: The file is missing or has another form.
    """
    if path.suffix in (".yaml", ".yml"):
        return read_settings(path, _TableFile).root
    _check_suffix(path)
    try:
        text = read_limited(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise UpernetError(f"{path}: no such file; write one with `upernet taxonomy map --out`.") from None
    except (OSError, ValueError) as error:
        raise UpernetError(f"{path}: cannot be read as UTF-8 text ({error}); save it again.") from None
    table: dict[str, dict[str, str | None]] = {}
    try:
        rows = csv.DictReader(io.StringIO(text), restval="", strict=True)
        missing = [column for column in NEEDED if column not in (rows.fieldnames or ())]
        if missing:
            raise UpernetError(f"{path}:1: the column {missing[0]} is missing; it needs {', '.join(NEEDED)}.")
        for row in rows:
            level, name, to = (row[column].strip() for column in NEEDED)
            if not (level or name or to):  # spreadsheets leave such rows at the end
                continue
            if level not in LEVELS:
                raise UpernetError(
                    f"{path}:{rows.line_num}: unknown level {shorten(level)}; the levels are {', '.join(LEVELS)}."
                )
            if name in table.setdefault(level, {}):
                raise UpernetError(f"{path}:{rows.line_num}: {shorten(name)} appears twice; keep one of the rows.")
            table[level][name] = to or None
    except csv.Error as error:
        raise UpernetError(f"{path}: is not CSV ({error}); save it again.") from None
    return table


def write_table(mapping: TaxonomyMapping, path: Path) -> None:
    """Write a mapping as a table, atomically, in the format of the suffix.

    Raises:
        UpernetError: The suffix is neither .csv nor .yaml, or the file cannot be written.
    """
    _check_suffix(path)
    if path.suffix == ".csv":
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((match.level, match.name, match.to or "", match.how) for match in mapping.matches)
        write_text(path, content.getvalue())
    else:
        about = f"# What the classes of {mapping.source.name} are in {mapping.target.name}; null: nothing.\n"
        table = yaml.safe_dump(mapping.to_table(), sort_keys=False, allow_unicode=True)
        write_text(path, "".join(f"# {line}\n" for line in about[2:].splitlines()) + table)


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise UpernetError(f"{path}: a table is a file with the suffix {' or '.join(SUFFIXES[:2])}; rename it.")
