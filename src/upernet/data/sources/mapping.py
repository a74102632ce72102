"""Tables from the values and names of a source to the labels of the taxonomy, and from one level to another."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, MaskSpec
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Level, Taxonomy

OUTSIDE = -2
"""Entry of a look-up table for a value that the source does not map."""
MAX_VALUE = 65535
"""Largest value in a mask."""

Labels = NDArray[np.int16]


def read_label_names(places: Sequence[Sequence[Path]]) -> dict[int, str]:
    """Read the names of classes by number from `labels.txt` files, with `id<TAB>name` on each line.

    Args:
        places: For each folder of photos, the folders that may hold its `labels.txt`; the first file counts.

    Returns:
        number -> name; empty if there is no file.

    Raises:
        UpernetError: A line has another form, a number or a name is given twice, or the files differ.
    """
    tables: list[dict[int, str]] = []
    for folders in places:
        files = [folder / "labels.txt" for folder in folders]
        tables.append(next((_read_labels_file(file) for file in files if file.is_file()), dict[int, str]()))
    for folders, table in zip(places, tables, strict=True):
        if table != tables[0]:
            raise UpernetError(
                f"{folders[0]}: its labels.txt differs from that of {places[0][0]}; make them two sources."
            )
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


def name_to_label(key: str, spec: AnnotationSpec, level: Level, known: Sequence[str] | None) -> dict[str, int]:
    """Map the classes of a source to labels of `level`, by `spec.classes` or, without it, by the names that agree.

    Args:
        key: The keys that lead to `spec` in the recipe, for errors.
        spec: The annotation of the level.
        level: The level of the taxonomy.
        known: The names of the classes in the source, if it has a list of them; numbers are then keys, too.

    Returns:
        casefolded name -> label.

    Raises:
        UpernetError: The mapping names a class that the source or the taxonomy does not have.
    """
    if spec.classes is None:
        return {own.casefold(): label for label, own in reversed(list(enumerate(level.names)))}
    folded = {own.casefold() for own in known or ()}
    labels: dict[str, int] = {}
    for own, target in spec.classes.items():
        where = f"{key}.classes.{own}"
        if known is not None and own.casefold() not in folded and not _is_value(own):
            raise UpernetError(f"{where}: the source has no class {own!r}{_suggestion(own, known)}.")
        if own.casefold() in labels:
            raise UpernetError(f"{where}: the class appears twice, in different letter case; keep one.")
        labels[own.casefold()] = IGNORE if target is None else _label(where, level, target)
    return labels


def value_table(key: str, spec: MaskSpec, level: Level, label_names: Mapping[int, str]) -> Labels:
    """Return the look-up table from the values of a mask to labels of `level`: int16, `OUTSIDE` if not mapped.

    A value is mapped by its name in `label_names`, or by its number as a key of `spec.classes`.

    Args:
        key: As in `name_to_label`.
        spec: The annotation of the level.
        level: The level of the taxonomy.
        label_names: value -> name; may be empty.

    Raises:
        UpernetError: As in `name_to_label`, or there are neither names nor a mapping.
    """
    if not label_names and spec.classes is None:
        raise UpernetError(
            f"{key}: its mask values have no names; put a labels.txt (lines `id<TAB>name`) beside the folder of "
            f"masks, or map the values under {key}.classes."
        )
    labels = name_to_label(key, spec, level, list(label_names.values()))
    table = np.full(MAX_VALUE + 1, OUTSIDE, dtype=np.int16)
    for value, own in label_names.items():
        table[value] = labels.get(own.casefold(), OUTSIDE)
    named = set(label_names.values())
    for own in spec.classes or ():
        if _is_value(own) and own not in named:
            table[int(own)] = labels[own]
    for value in spec.ignore:
        if 0 <= value <= MAX_VALUE:
            table[value] = IGNORE
    return table


def implied_label(where: str, level: Level, target: str) -> int:
    """Return the label of `level` that every photo has. Raises UpernetError if there is no such class."""
    return _label(where, level, target)


def implied_labels(where: str, own: Level, other: Level, implied: Mapping[str, str]) -> Labels:
    """Return the table from labels of `own` to labels of `other`: int16, one per class of `own`, `IGNORE` for none.

    Raises:
        UpernetError: A class is not in its level.
    """
    everything = _label(f"{where}.*", other, implied["*"]) if "*" in implied else IGNORE
    table = np.full(len(own.names), everything, dtype=np.int16)
    for key, target in implied.items():
        if key != "*":
            table[_label(f"{where}.{key}", own, key)] = _label(f"{where}.{key}", other, target)
    return table


def check_owners(key: str, taxonomy: Taxonomy, level: str, part_labels: Labels, owners: Labels) -> None:
    """Check that the implied object of each part owns it, because the loss of a part is computed inside its owner.

    Args:
        key: As in `name_to_label`.
        taxonomy: The taxonomy.
        level: The level of the parts.
        part_labels: The part labels that the source maps to.
        owners: The implied object of every part label; `IGNORE` for none.

    Raises:
        UpernetError: An object does not own the part.
    """
    owner_level = LEVEL_KINDS[level].owned_by or level
    parts, object_names = taxonomy.level(level).names, taxonomy.level(owner_level).names
    owned = {(group.owner, part) for group in taxonomy.part_groups for part in group.parts}
    for part in map(int, np.unique(part_labels[part_labels > 0])):
        owner = int(owners[part])
        if (owner, part) not in owned:
            possible = [object_names[group.owner] for group in taxonomy.part_groups if part in group.parts]
            said = "nothing" if owner == IGNORE else repr(object_names[owner])
            raise UpernetError(
                f"{key}.implies.{owner_level}: {level} {parts[part]!r} implies {said}, but belongs to "
                f"{' or '.join(map(repr, possible)) or f'no {owner_level}'}; name that {owner_level}, or map the "
                f"{level} to null."
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
