"""From the numbers and names of a source to the labels of the taxonomy, and from one level to another."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from upernet.errors import UpernetError
from upernet.recipe import SourceSpec
from upernet.taxonomy import IGNORE, Level, Taxonomy

OUTSIDE = -2
"""In a look-up table: a value that the source does not map."""
MAX_VALUE = 65535


def read_label_names(folders: Sequence[Path]) -> dict[int, str]:
    """Class names by number from `labels.txt` (`id<TAB>name` per line) in each folder or one above; empty without one.

    Raises:
        UpernetError: a line does not have that form, a number or a name is given twice, or the folders differ.
    """
    tables = []
    for folder in folders:
        files = [place / "labels.txt" for place in (folder, folder.parent)]
        tables.append(next((_read_labels_file(file) for file in files if file.is_file()), {}))
    for folder, table in zip(folders, tables, strict=True):
        if table != tables[0]:
            raise UpernetError(f"{folder}: its labels.txt differs from that of {folders[0]}; make them two sources.")
    return tables[0]


def _read_labels_file(file: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UpernetError(f"{file}: cannot be read as UTF-8 text ({error}); save it again.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value, _, name = line.partition("\t")
        name = name.strip()
        if not value.strip().isdecimal() or not name or int(value) > MAX_VALUE:
            raise UpernetError(f"{file}:{number}: expected a number, a tab and a class name, not {line!r}.")
        if int(value) in names or name.casefold() in (known.casefold() for known in names.values()):
            raise UpernetError(f"{file}:{number}: {line.strip()!r} repeats a number or a name; keep one of the lines.")
        names[int(value)] = name
    return names


def name_to_label(name: str, spec: SourceSpec, level: Level, known: Sequence[str] | None) -> dict[str, int]:
    """Source class (casefolded) -> label of `level`, from `spec.classes` or, without it, from the names that agree.

    Args:
        name: of the source, for errors.
        known: the source's own class names, if it has a list of them; its keys may then be numbers, too.

    Raises:
        UpernetError: the mapping names a class that the source or the taxonomy does not have.
    """
    if spec.classes is None:
        return {own.casefold(): label for label, own in reversed(list(enumerate(level.names)))}
    folded = {own.casefold() for own in known or ()}
    labels: dict[str, int] = {}
    for key, target in spec.classes.items():
        where = f"sources.{name}.classes.{key}"
        if known is not None and key.casefold() not in folded and not _is_value(key):
            raise UpernetError(f"{where}: the source has no class {key!r}{_suggestion(key, known)}.")
        if key.casefold() in labels:
            raise UpernetError(f"{where}: the class appears twice, in different letter case; keep one.")
        labels[key.casefold()] = IGNORE if target is None else _label(where, level, target)
    return labels


def value_table(name: str, spec: SourceSpec, level: Level, label_names: Mapping[int, str]) -> np.ndarray:
    """Look-up table from the values of a mask to labels of `level`: int16, `OUTSIDE` where a value is not mapped.

    A value goes by its name in `label_names` or, in the keys of `spec.classes`, by the number itself.

    Raises:
        UpernetError: as `name_to_label`, or there are no names to go by.
    """
    if not label_names and spec.classes is None:
        raise UpernetError(
            f"source {name}: its mask values have no names; put a labels.txt (lines `id<TAB>name`) beside the photos' "
            f"folders, or map the values under sources.{name}.classes."
        )
    labels = name_to_label(name, spec, level, list(label_names.values()))
    table = np.full(MAX_VALUE + 1, OUTSIDE, dtype=np.int16)
    for value, own in label_names.items():
        table[value] = labels.get(own.casefold(), OUTSIDE)
    named = set(label_names.values())
    for key in spec.classes or ():
        if _is_value(key) and key not in named:
            table[int(key)] = labels[key]
    for value in spec.ignore:
        if 0 <= value <= MAX_VALUE:
            table[value] = IGNORE
    return table


def implied_label(where: str, level: Level, target: str) -> int:
    """Label of `level` that every photo has. Raises UpernetError if there is no such class."""
    return _label(where, level, target)


def implied_labels(where: str, own: Level, other: Level, implied: Mapping[str, str]) -> np.ndarray:
    """Table from labels of `own` to labels of `other`: int16, one per class of `own`, `IGNORE` for nothing.

    Raises:
        UpernetError: a class is not in its level.
    """
    everything = _label(f"{where}.*", other, implied["*"]) if "*" in implied else IGNORE
    table = np.full(len(own.names), everything, dtype=np.int16)
    for key, target in implied.items():
        if key != "*":
            table[_label(f"{where}.{key}", own, key)] = _label(f"{where}.{key}", other, target)
    return table


def check_owners(name: str, taxonomy: Taxonomy, part_labels: np.ndarray, objects: np.ndarray) -> None:
    """Refuse part labels whose implied object does not own them (part loss is taken only inside the owner).

    Args:
        part_labels: the part labels that the source maps to.
        objects: implied object label of every part label, `IGNORE` for none.
    """
    parts, object_names = taxonomy.level("part").names, taxonomy.level("object").names
    owned = {(group.owner, part) for group in taxonomy.part_groups for part in group.parts}
    for part in np.unique(part_labels[part_labels > 0]).tolist():
        owner = int(objects[part])
        if (owner, part) not in owned:
            owners = [object_names[group.owner] for group in taxonomy.part_groups if part in group.parts]
            said = "nothing" if owner == IGNORE else repr(object_names[owner])
            raise UpernetError(
                f"sources.{name}.implies.object: part {parts[part]!r} implies {said}, but belongs to "
                f"{' or '.join(map(repr, owners)) or 'no object'}; name that object, or map the part to null."
            )


def _label(where: str, level: Level, target: str) -> int:
    try:
        return level.index(target)
    except UpernetError as error:
        raise UpernetError(f"{where}: {error}") from None


def _is_value(key: str) -> bool:
    return key.isascii() and key.isdecimal() and int(key) <= MAX_VALUE


def _suggestion(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return (
        f"; did you mean {' or '.join(map(repr, near))}?"
        if near
        else "; use a name of its labels.txt or the value itself"
    )
