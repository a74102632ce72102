"""Names for the values or colors of masks: from a table of classes, or guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from upernet.errors import UpernetError
from upernet.scaffold.class_tables import ClassTable, Color, TableEntry
from upernet.scaffold.measure import Kind, Measurement
from upernet.scaffold.questions import Answers

UNKNOWN_NAMES = frozenset(
    [
        *("void", "unlabeled", "unlabelled", "not labeled", "unknown", "ignore", "ignored", "undefined"),
        *("dontcare", "don't care", "do not care", "uncertain", "border", "unassigned", "unannotated", "none", "null"),
    ]
)
UNKNOWN_WORDS = frozenset(("ignore", "ignored", "void", "unlabeled", "unlabelled"))
"""Words of names such as `border_ignore`."""
BACKGROUND_NAMES = frozenset(("background", "bg", "backgrounds"))
BACKGROUND = "background"
RENAME = "rename them in the taxonomy and the recipe, or give --classes FILE."
MOST_UNLISTED = 0.02
"""Share of the pixels whose colors a table may leave out; a table that leaves out more is about something else."""


@dataclass
class Names:
    """What the keys of masks (values, or color codes) mean.

    Attributes:
        names: Key -> class.
        unknown: Key -> why its pixels are unknown.
        where_from: Where the names are from, for people.
        colors: Class -> color, where a table gives it.
        never: Classes of the table that no mask shows.
        notes: Assumptions, one sentence each.
    """

    names: dict[int, str]
    unknown: dict[int, str]
    where_from: str
    colors: dict[str, Color] = field(default_factory=dict[str, Color])
    never: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


def name_classes(
    measured: Measurement, tables: Iterable[ClassTable], given: ClassTable | None, answers: Answers
) -> Names:
    """Name the values or colors of masks, and tell which of them mean unknown.

    Args:
        measured: The masks.
        tables: Tables found in the folder; the one that fits best is taken.
        given: Table that the user named, which is taken even if it does not fit well.
        answers: Answers of the user.

    Raises:
        UpernetError: The given table does not fit the masks.
    """
    pixels = measured.pixels
    tables = [_numbered(table, measured.kind, pixels) for table in tables]
    given = given and _numbered(given, measured.kind, pixels)
    best = given or max(tables, key=lambda table: _fit(table, measured.kind, pixels), default=None)
    fit = _fit(best, measured.kind, pixels)
    if given is not None and fit == 0:
        what = "class numbers" if measured.kind == "values" else "colors"
        raise UpernetError(f"{given.path}: lists none of the {what} in the masks; correct the file.")
    if best is not None and (given is not None or fit >= 1 - MOST_UNLISTED):
        return _from_table(best, measured.kind, pixels)
    return _without_table(measured, answers)


def _numbered(table: ClassTable, kind: Kind, pixels: Mapping[int, int]) -> ClassTable:
    """Return a table of bare names with the class numbers that they stand for.

    If the masks have as many values as there are names, the names are theirs in order; with one value more, 0 is the
    background. Otherwise, the names are numbered from 0.
    """
    scale = 1 if kind == "values" else 0x010101
    if not table.only_names or any(key % scale for key in pixels):
        return table
    values = sorted(key // scale for key in pixels)
    if 255 in values and not _evenly_spread(values):
        values.remove(255)
    names = [entry.name for entry in table.entries]
    if len(values) == len(names) + 1 and values[0] == 0:
        names.insert(0, BACKGROUND)
    numbers = values if len(values) == len(names) else range(len(names))
    entries = [TableEntry(name, number) for number, name in zip(numbers, names, strict=True)]
    return ClassTable(table.path, entries)


def _fit(table: ClassTable | None, kind: Kind, pixels: Mapping[int, int]) -> float:
    """Return the share of the pixels that a table names. 255 needs no name."""
    if table is None:
        return 0.0
    listed = {key for entry in table.entries for key in _keys(entry, kind, pixels)}
    ignored = {255} if kind == "values" else set[int]()
    total = sum(count for key, count in pixels.items() if key not in ignored - listed)
    return sum(count for key, count in pixels.items() if key in listed) / max(1, total)


def _keys(entry: TableEntry, kind: Kind, pixels: Mapping[int, int]) -> list[int]:
    """Return the keys of masks that an entry names. In colors, a gray (v, v, v) may stand for the value v."""
    if kind == "values":
        return [] if entry.value is None else [entry.value]
    if entry.color is not None:
        return [entry.color[0] << 16 | entry.color[1] << 8 | entry.color[2]]
    grays = all(key % 0x010101 == 0 for key in pixels)
    return [entry.value * 0x010101] if entry.value is not None and grays and entry.value < 256 else []


def _from_table(table: ClassTable, kind: Kind, pixels: Mapping[int, int]) -> Names:
    named = Names({}, {}, table.path.name)
    for entry in table.entries:
        keys = [key for key in _keys(entry, kind, pixels) if key in pixels]
        plain = entry.name.casefold().strip("_ ")
        if plain in UNKNOWN_NAMES or UNKNOWN_WORDS & set(re.split(r"[\W_]+", plain)):
            named.unknown |= dict.fromkeys(keys, f"{entry.name} in {table.path.name}")
            continue
        name = BACKGROUND if plain in BACKGROUND_NAMES else entry.name
        if entry.color is not None:
            named.colors.setdefault(name, entry.color)
        named.names |= dict.fromkeys(keys, name)
        if not keys and name not in named.never:
            named.never.append(name)
    shown = set(named.names.values())
    named.never = [name for name in named.never if name not in shown]
    rest = sorted(set(pixels) - set(named.names) - set(named.unknown))
    named.unknown |= dict.fromkeys(rest, f"not in {table.path.name}")
    return named


def _without_table(measured: Measurement, answers: Answers) -> Names:
    pixels = measured.pixels
    scale = 1 if measured.kind == "values" else 0x010101
    if all(key % scale == 0 for key in pixels):
        return _from_numbers(measured, {key // scale: key for key in pixels}, answers)
    named = Names({}, {}, "named after the colors of the masks")
    for key in sorted(pixels):
        color = (key >> 16, key >> 8 & 255, key & 255)
        named.names[key] = "color_{}_{}_{}".format(*color)
        named.colors[named.names[key]] = color
    named.notes.append(f"There is no table of colors, so the classes are named after theirs; {RENAME}")
    return named


def _from_numbers(measured: Measurement, keys: dict[int, int], answers: Answers) -> Names:
    """Name class numbers without a table: two are background and foreground; evenly spread ones are gray levels."""
    values = sorted(keys)
    ignored = [255] if 255 in values and not _evenly_spread(values) else []
    kept = [value for value in values if value not in ignored]
    unknown = {keys[value]: "255 means unknown" for value in ignored}
    if len(kept) == 2 and kept[0] == 0:
        name = answers.get("foreground", "What does the marked area of the masks show?", "foreground")
        note = f"The masks have two values: 0 is taken for {BACKGROUND}, {kept[1]} for {name}."
        names = {keys[0]: BACKGROUND, keys[kept[1]]: name}
        return Names(names, unknown, "guessed from two values", notes=[note])
    palette = {value: (color >> 16, color >> 8 & 255, color & 255) for value, color in measured.palette.items()}
    word = "class" if max(kept, default=0) <= 2 * len(kept) + 8 else "value"
    names = {keys[value]: f"{word}_{value}" for value in kept}
    if (
        0 in kept
        and answers.get(
            "zero",
            "Does the value 0 mean `background`, a `class` like the others, or `unknown`?",
            "class",
            ("background", "class", "unknown"),
        )
        != "class"
    ):
        if answers["zero"] == "unknown":
            unknown[keys[0]] = "0 means unknown"
            del names[keys[0]]
        else:
            names[keys[0]] = BACKGROUND
    colors = {names[keys[value]]: palette[value] for value in kept if value in palette and keys[value] in names}
    note = f"There is no list of classes, so they are named after their numbers; {RENAME}"
    return Names(names, unknown, "named after their numbers", colors, notes=[note])


def _evenly_spread(values: Sequence[int]) -> bool:
    """Return whether values are gray levels from 0 to 255 at equal distances, such as 0, 128, 255."""
    if len(values) < 2 or len(values) > 17 or values[0] != 0:
        return False
    distance = 255 / (len(values) - 1)
    return all(abs(value - number * distance) <= 1 for number, value in enumerate(values))
