"""Mapping of the classes of one taxonomy to those of another, by name, by synonym, and by a table of the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from upernet.errors import UpernetError
from upernet.settings import Name, Settings, read_settings
from upernet.taxonomy.levels import LEVEL_KINDS, LevelName
from upernet.taxonomy.taxonomy import IGNORE, Level, Taxonomy

SYNONYMS = Path(__file__).parent / "names" / "synonyms.yaml"
MOST_STEPS = 5
"""How many steps up from a class to broader ones are taken: armchair, chair, ..."""

How = Literal["table", "name", "synonym", "broader", "background", ""]
"""Why a class is mapped to another one: the user's table says so, the names are equal, they mean the same, the second
one is broader, both mean "none of the listed classes"; "": it is not mapped."""
Table = Mapping[str, Mapping[str, str | None]]
"""Level -> class of the first taxonomy -> class of the second one, or None: it has none there."""


@dataclass(frozen=True)
class Match:
    """What becomes of one class."""

    level: str
    name: str
    to: str | None
    """Class of the other taxonomy; None if there is none."""
    how: How


@dataclass(frozen=True)
class TaxonomyMapping:
    """What becomes of each class of one taxonomy in another one."""

    source: Taxonomy
    target: Taxonomy
    matches: tuple[Match, ...]
    """One for each class of the levels that both have, in the order of `source`."""

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of which at least one class is mapped."""
        return tuple(dict.fromkeys(match.level for match in self.matches if match.how not in ("", "background")))

    def of(self, level: str) -> Iterator[Match]:
        """Yield the matches of a level."""
        return (match for match in self.matches if match.level == level)

    def labels(self, level: str) -> NDArray[np.int16]:
        """Return the target label of each source label of a level, -1 where there is none: int16 K."""
        target = self.target.level(level)
        found = [IGNORE if match.to is None else target.index(match.to) for match in self.of(level)]
        return np.asarray(found, np.int16)

    def to_table(self) -> dict[str, dict[str, str | None]]:
        """Return the mapping as level -> class -> class or None, as `map_taxonomies` takes it."""
        return {
            level: {match.name: match.to for match in self.of(level)}
            for level in dict.fromkeys(match.level for match in self.matches)
        }


def map_taxonomies(
    source: Taxonomy, target: Taxonomy, table: Table | None = None, *, broader: bool = True
) -> TaxonomyMapping:
    """Map the classes of one taxonomy to those of another.

    For each class, the first of these that finds one applies: the table; what is known of two bundled taxonomies whose
    names mislead; an equal name (letter case, spaces, "_" and
    "-" do not matter); a synonym; a broader class, such as chair for armchair and library for library/indoor. The
    backgrounds of a level ("none of the listed classes") are mapped to each other. A part is mapped to a part that an
    object has in both taxonomies.

    Args:
        source: The taxonomy whose classes are mapped.
        target: The taxonomy that they are mapped to.
        table: What the user wants; classes and levels that it does not name are mapped as described above.
        broader: Whether a class may be mapped to a broader one.

    Raises:
        UpernetError: The table names a level or class that a taxonomy does not have.
    """
    matches = _matches(source, target, table or {}, broader)
    objects = {(match.level, match.name): match.to for match in matches}
    return TaxonomyMapping(source, target, tuple(_with_owner(match, objects, source, target) for match in matches))


def _matches(source: Taxonomy, target: Taxonomy, table: Table, broader: bool) -> list[Match]:
    """Return a match for each class, whatever the object of a part is."""
    for level, classes in table.items():
        for name, to in classes.items():
            source.level(level).index(name)
            if to is not None:
                target.level(level).index(to)
    matches: list[Match] = []
    for level in source.levels.values():
        if level.name in target.levels:
            known = _between(source.name, target.name, level.name)
            finder = _Finder(level.name, target.level(level.name), broader, known)
            matches += [_match(level, label, finder, table.get(level.name, {})) for label in range(level.num_classes)]
    return matches


def _with_owner(match: Match, to: Mapping[tuple[str, str], str | None], source: Taxonomy, target: Taxonomy) -> Match:
    """Return the match of a part only where the object has it in both: the top of a table is no garment."""
    owner_level = LEVEL_KINDS[match.level].owned_by
    if owner_level is None or match.to is None or match.how in ("table", "background"):
        return match
    part, target_part = source.level(match.level).index(match.name), target.level(match.level).index(match.to)
    owners = {group.owner for group in target.part_groups if target_part in group.parts}
    names = {target.level(owner_level).names[owner] for owner in owners}
    for group in source.part_groups:
        if part in group.parts and to[owner_level, source.level(owner_level).names[group.owner]] in names:
            return match
    return Match(match.level, match.name, None, "")


def _match(level: Level, label: int, finder: _Finder, table: Mapping[str, str | None]) -> Match:
    name = level.names[label]
    if name in table:
        return Match(level.name, name, table[name], "table")
    if level.background and label == 0:
        to = finder.target.names[0] if finder.target.background else None
        return Match(level.name, name, to, "background" if to else "")
    to, how = finder.find(name)
    return Match(level.name, name, to, how)


class _Finder:
    """Finds the class of a level that a name stands for."""

    def __init__(self, level: str, target: Level, broader: bool, known: Mapping[str, str | None]):
        self.target = target
        self._known = known
        self._names = {key(name): name for name in reversed(target.names[target.background :])}
        groups, kinds = _synonyms(level)
        self._groups, self._kinds = groups, kinds if broader else {}
        self._broader = broader

    def find(self, name: str) -> tuple[str | None, How]:
        if name in self._known:
            to = self._known[name]
            return (to, "synonym") if to in self.target.names else (None, "")
        found = self._equal(name)
        if found[0] is not None or not self._broader:
            return found
        for _ in range(MOST_STEPS):
            wider = self._wider(name)
            if wider is None:
                break
            name = wider
            to, _ = self._equal(name)
            if to is not None:
                return to, "broader"
        return None, ""

    def _equal(self, name: str) -> tuple[str | None, How]:
        if name in self.target.names[self.target.background :]:
            return name, "name"
        if key(name) in self._names:
            return self._names[key(name)], "name"
        for other in self._groups.get(key(name), ()):
            if other in self._names:
                return self._names[other], "synonym"
        return None, ""

    def _wider(self, name: str) -> str | None:
        for other in (key(name), *self._groups.get(key(name), ())):
            if other in self._kinds:
                return self._kinds[other]
        return name.partition("/")[0] if "/" in name else None


def key(name: str) -> str:
    """Return what two names have in common that differ only in case, spaces and punctuation.

    Example:
        >>> key("Tail_light"), key("taillight")
        ('taillight', 'taillight')
    """
    return re.sub(r"[\W_]+", "", name.casefold()) or name


class _Between(Settings):
    of: Name
    in_: Annotated[Name, Field(alias="in")]
    object: dict[Name, Name | None]


class _SynonymsFile(Settings):
    same: dict[LevelName, tuple[tuple[Name, ...], ...]]
    broader: dict[LevelName, dict[Name, Name]]
    between: tuple[_Between, ...]


@lru_cache(maxsize=1)
def _synonyms_file() -> _SynonymsFile:
    return read_settings(SYNONYMS, _SynonymsFile)


def _between(source: str, target: str, level: str) -> dict[str, str | None]:
    """Return what the file says of the classes of one bundled taxonomy in another one."""
    found: dict[str, str | None] = {}
    for pair in _synonyms_file().between if level == "object" else ():
        if (pair.of, pair.in_) == (source, target):
            found |= pair.object
        elif (pair.of, pair.in_) == (target, source):
            found |= {to: name for name, to in pair.object.items() if to is not None}
    return found


@lru_cache(maxsize=8)
def _synonyms(level: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return key of a name -> keys of its synonyms, and key of a name -> the name of a broader class."""
    file = _synonyms_file()
    groups: dict[str, tuple[str, ...]] = {}
    for names in file.same.get(level, ()):
        keys = tuple(key(name) for name in names)
        for own in keys:
            groups[own] = (*groups.get(own, ()), *(other for other in keys if other != own))
    return groups, {key(name): wider for name, wider in file.broader.get(level, {}).items()}


def merge_taxonomies(first: Taxonomy, second: Taxonomy, name: str, table: Table | None = None) -> Taxonomy:
    """Merge two taxonomies: the classes of the first, then those of the second that are none of them.

    Classes are the same if their names are equal or synonyms; a broader class is another one. Parts of an object that
    both have are put together.

    Args:
        first: The taxonomy whose names and colors are kept.
        second: The other one.
        name: Name of the result.
        table: Classes of `second` that are classes of `first`, or None for those that are not, whatever their name.

    Raises:
        UpernetError: The table names a level or class that a taxonomy does not have, a class that is kept apart has the
            name of another one, or a level gets too many classes.
    """
    mapping = TaxonomyMapping(second, first, tuple(_matches(second, first, table or {}, broader=False)))
    for match in mapping.matches:
        if match.to is None and match.name in first.level(match.level).names:
            raise UpernetError(
                f"the table keeps the {match.level} {match.name!r} of {second.name} apart from that of {first.name}, "
                "and a name stands for one class; rename it in one of the taxonomies."
            )
    to = {(match.level, match.name): match.to or match.name for match in mapping.matches}
    one, two = first.to_dict(), second.to_dict()
    nothing: dict[str, object] = {"classes": [], "of": {}}
    levels = {
        level: _merged_level(mapping, level, one["levels"].get(level, nothing), two["levels"].get(level, nothing), to)
        for level in LEVEL_KINDS
        if level in one["levels"] or level in two["levels"]
    }
    return Taxonomy.from_dict({"name": name, "description": f"{first.name} and {second.name}.", "levels": levels})


def _merged_level(
    mapping: TaxonomyMapping, level: str, one: dict[str, object], two: dict[str, object], to: dict[tuple[str, str], str]
) -> dict[str, object]:
    """Merge a level of two taxonomies in the form of `Taxonomy.to_dict`."""
    classes = cast("list[dict[str, str]]", one["classes"])
    taken = {entry["color"] for entry in classes}
    known = {match.name for match in mapping.of(level) if match.to is not None}
    new = [entry for entry in cast("list[dict[str, str]]", two["classes"]) if entry["name"] not in known]
    merged = [*classes, *({"name": entry["name"]} if entry["color"] in taken else entry for entry in new)]
    result: dict[str, object] = {"classes": merged}
    if background := one.get("background") or two.get("background"):
        result["background"] = background
    if all(each.get("known_background") for each in (one, two) if each["classes"]):
        result["known_background"] = True
    owner_level = LEVEL_KINDS[level].owned_by
    if owner_level:
        groups: dict[str, list[str]] = {}
        for owner, parts in cast("dict[str, list[str]]", one["of"]).items():
            groups[owner] = list(parts)
        for owner, parts in cast("dict[str, list[str]]", two["of"]).items():
            own = groups.setdefault(to.get((owner_level, owner), owner), [])
            own += [part for each in parts if (part := to.get((level, each), each)) not in own]
        owned = {part for parts in groups.values() for part in parts}
        result["of"] = groups
        result["without_object"] = [entry["name"] for entry in merged if entry["name"] not in owned]
    return result
