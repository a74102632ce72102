"""Maps from the values and names of a source to labels of the taxonomy, and from one level to another."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from upernet.data.candidates import CandidateSets
from upernet.errors import UpernetError, shorten
from upernet.files import read_limited
from upernet.taxonomy import IGNORE, Level, Taxonomy

OUTSIDE = -(2**15)
"""Entry of a table for a value that the source does not map."""
MAX_BYTES = 2**24
"""Bytes of the largest labels.txt."""
MAX_NAME = 200
"""Characters of the longest name of a class."""
MAX_VALUE = 65535
"""Largest value in a mask."""

Classes = Mapping[str, "str | tuple[str, ...] | None"]
"""Source class -> class of the taxonomy, several of them (one of which is right), or None (unknown)."""


def read_label_names(folders: Sequence[Path]) -> dict[int, str]:
    """Read class names by number from `labels.txt` (`id<TAB>name` per line) in each folder or one above.

    Returns:
        The names; empty if there is no such file.

    Raises:
        UpernetError: A line does not have that form, a number or a name is given twice, or the folders differ.
    """
    tables: list[dict[int, str]] = []
    for folder in folders:
        files = [place / "labels.txt" for place in (folder, folder.parent)]
        file = next((file for file in files if os.path.isfile(file)), None)
        tables.append(_read_labels_file(file) if file else {})
    for folder, table in zip(folders, tables, strict=True):
        if table != tables[0]:
            raise UpernetError(
                f"{folder}: its labels.txt differs from that of {folders[0]}; split them into two sources."
            )
    return tables[0]


def _read_labels_file(file: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    folded: set[str] = set()
    try:
        lines = read_limited(file, MAX_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UpernetError(f"{file}: cannot be read as UTF-8 text ({error}); save it again.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value, _, name = line.partition("\t")
        name = name.strip()
        if not _is_value(value.strip()) or not name or len(name) > MAX_NAME:
            raise UpernetError(f"{file}:{number}: expected a number, a tab and a class name, not {shorten(line)}.")
        if int(value) in names or name.casefold() in folded:
            text = shorten(line.strip())
            raise UpernetError(f"{file}:{number}: {text} repeats a number or a name; keep one of the lines.")
        names[int(value)] = name
        folded.add(name.casefold())
    return names


def name_to_label(
    where: str, classes: Classes, level: Level, known: Sequence[str] | None, sets: CandidateSets, weight: float = 1.0
) -> dict[str, int]:
    """Map source classes (case-folded) to labels of `level`: by `classes`, and those not listed by equal names.

    Args:
        where: Key of the recipe that describes the annotation, for errors.
        classes: The mapping of the recipe.
        level: Level of the labels.
        known: The source's own class names, if it has a list of them; keys may then be numbers, too.
        sets: Receives the candidate sets of classes that are mapped to several.
        weight: Factor of the loss of these sets.

    Raises:
        UpernetError: The mapping names a class that the source or the taxonomy does not have.
    """
    by_name = {own.casefold(): label for label, own in reversed(list(enumerate(level.names)))}
    folded = {own.casefold() for own in known or ()}
    labels: dict[str, int] = {}
    for key, target in classes.items():
        place = f"{where}.classes.{key}"
        if known is not None and key.casefold() not in folded and not _is_value(key):
            raise UpernetError(f"{place}: the source has no class {key!r}{_suggestion(key, known)}.")
        if key.casefold() in labels:
            raise UpernetError(f"{place}: the class appears twice, in different letter case; keep one.")
        labels[key.casefold()] = IGNORE if target is None else _label_or_set(place, level, target, sets, weight)
    return by_name | labels


def value_table(
    where: str,
    classes: Classes,
    level: Level,
    names: Mapping[int, str],
    ignore: Collection[int],
    sets: CandidateSets,
    weight: float = 1.0,
    none_of_these: bool = False,
) -> np.ndarray:
    """Return the table from values of a mask to labels of `level`: int16, `OUTSIDE` where a value is not mapped.

    A value goes by its name in `names` or, in the keys of `classes`, by the number itself. Those of `ignore` are
    unknown. Values that are mapped to null are unknown, too, or none of the mapped classes if `none_of_these` is set.
    The other arguments are those of `name_to_label`.

    Raises:
        UpernetError: As `name_to_label`, or neither names nor a mapping are given.
    """
    if not names and not classes:
        raise UpernetError(
            f"{where}: the mask values have no names; put a labels.txt (lines `id<TAB>name`) beside the folder of the "
            f"photos, or map the values under {where}.classes."
        )
    labels = name_to_label(where, classes, level, list(names.values()), sets, weight)
    table = np.full(MAX_VALUE + 1, OUTSIDE, dtype=np.int16)
    for value, own in names.items():
        table[value] = labels.get(own.casefold(), OUTSIDE)
    named = set(names.values())
    for key in classes:
        if _is_value(key) and key not in named:
            if str(int(key)) != key and str(int(key)) in classes:
                raise UpernetError(f"{where}.classes.{key}: the value {int(key)} appears twice; keep one of the keys.")
            table[int(key)] = labels[key]
    if none_of_these:
        exact = set(np.unique(table[table >= 0]).tolist())
        mapped = exact.union(*(labels for labels, _ in sets.sets))
        sets.complement = sets.code(set(range(level.num_classes)) - mapped)
        table[table == IGNORE] = sets.complement
    for value in ignore:
        if 0 <= value <= MAX_VALUE:
            table[value] = IGNORE
    return table


def look_up(table: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the int16 labels of mask values, H x W; values beyond the table become `OUTSIDE`."""
    if mask.dtype == np.uint8:
        return table[:256].take(mask, mode="clip")  # five times faster than indexing
    inside = (mask >= 0) & (mask < len(table))
    return np.where(inside, table[np.where(inside, mask, 0)], np.int16(OUTSIDE)).astype(np.int16)


def implied_label(where: str, level: Level, target: str) -> int:
    """Return the label of `level` that every photo has. Raises UpernetError if there is no such class."""
    return _label(where, level, target)


def implied_labels(
    where: str, own: Level, other: Level, implied: Mapping[str, str | Sequence[str]], sets: CandidateSets
) -> np.ndarray:
    """Return the table from labels of `own` to labels of `other`: int16, one per class; `IGNORE` for nothing.

    A class that implies one of several has the value of their candidate set, which is added to `sets`.

    Raises:
        UpernetError: A class is not in its level.
    """
    values = {key: _label_or_set(f"{where}.{key}", other, target, sets) for key, target in implied.items()}
    table = np.full(len(own.names), values.pop("*", IGNORE), dtype=np.int16)
    for key, value in values.items():
        table[_label(f"{where}.{key}", own, key)] = value
    return table


def check_owners(where: str, taxonomy: Taxonomy, part_labels: np.ndarray, objects: np.ndarray) -> None:
    """Refuse part labels whose implied object does not own them (part loss is taken only inside the owner).

    Args:
        where: Key of the recipe that describes the parts, for errors.
        taxonomy: The taxonomy.
        part_labels: The part labels that the source maps to.
        objects: Implied object label of every part label, `IGNORE` for none.
    """
    parts, object_names = taxonomy.level("part").names, taxonomy.level("object").names
    owned = {(group.owner, part) for group in taxonomy.part_groups for part in group.parts}
    for part in np.unique(part_labels[part_labels > 0]).tolist():
        owner = int(objects[part])
        if (owner, part) not in owned:
            owners = [object_names[group.owner] for group in taxonomy.part_groups if part in group.parts]
            said = repr(object_names[owner]) if owner >= 0 else "nothing" if owner == IGNORE else "one of several"
            raise UpernetError(
                f"{where}.implies.object: part {parts[part]!r} implies {said}, but belongs to "
                f"{' or '.join(map(repr, owners)) or 'no object'}; name that object, or map the part to null."
            )


def _label(where: str, level: Level, target: str) -> int:
    try:
        return level.index(target)
    except UpernetError as error:
        raise UpernetError(f"{where}: {error}") from None


def _label_or_set(
    place: str, level: Level, target: str | Sequence[str], sets: CandidateSets, weight: float = 1.0
) -> int:
    """Return the label of a class, or the value of the candidate set of several classes."""
    if isinstance(target, str):
        return _label(place, level, target)
    return sets.code([_label(place, level, name) for name in target], weight)


def _is_value(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= 20 and int(key) <= MAX_VALUE


def _suggestion(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return (
        f"; did you mean {' or '.join(map(repr, near))}?"
        if near
        else "; use a name of its labels.txt or the value itself"
    )
