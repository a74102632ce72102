"""The schema of a taxonomy file, with an error for everything that can be wrong in one."""

from __future__ import annotations

import re
from typing import Any, cast

from pydantic import create_model, field_validator, model_validator

from upernet.errors import shorten
from upernet.settings import Name, Settings, SettingsError
from upernet.taxonomy.levels import LEVEL_KINDS, LEVELS

MOST_CLASSES = 2**15 - 1
"""Largest number of classes of a level: labels are int16."""


class ClassEntry(Settings):
    """A class, written as its name alone or as `{name: ..., color: "#rrggbb"}`."""

    name: Name
    color: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict | ClassEntry):
            raise SettingsError(
                f"{shorten(value)} is not a class; write a name (in quotes if YAML takes it for another type) "
                'or {name: ..., color: "#rrggbb"}'
            )
        return cast(Any, value)

    @field_validator("name")
    @classmethod
    def _name_has_letters(cls, name: str) -> str:
        if not name or name != name.strip():
            raise ValueError("a class name must not be empty, or begin or end with a space")
        return name

    @field_validator("color", mode="before")
    @classmethod
    def _six_digits(cls, color: Any) -> Any:
        if not isinstance(color, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
            raise ValueError(
                f'{shorten(color)} is not a color; write it as "#rrggbb", in quotes (outside them, # starts a comment)'
            )
        return color


class LevelEntry(Settings):
    """The classes of a level. Label 0 is `background`, if given, and means "none of the listed classes"."""

    background: ClassEntry | None = None
    known_background: bool = False
    """Whether sources annotate the background like a class, so that it is trained, and classes that are predicted there
    are wrong. False: such pixels are unknown."""
    classes: tuple[ClassEntry, ...]

    @field_validator("classes", mode="before")
    @classmethod
    def _not_empty(cls, classes: Any) -> Any:
        if classes is None or classes in ([], ()):
            raise ValueError("the level is empty; list at least one class, or leave the level out")
        if isinstance(classes, (list, tuple)) and len(cast("tuple[Any]", classes)) > MOST_CLASSES:
            raise ValueError(f"a level has at most {MOST_CLASSES:,} classes; merge the rare ones")
        return cast(Any, classes)

    @model_validator(mode="after")
    def _names_differ(self) -> LevelEntry:
        first: dict[str, int] = {}
        for position, entry in enumerate(self.classes):
            if self.background and entry.name == self.background.name:
                raise SettingsError(f"class {entry.name!r} is also the background of the level", "classes", position)
            if entry.name in first:
                raise SettingsError(
                    f"class {entry.name!r} is listed twice (entries {first[entry.name]} and {position}, from 0)",
                    "classes",
                    position,
                )
            first[entry.name] = position
        return self

    @model_validator(mode="after")
    def _known_background_has_a_name(self) -> LevelEntry:
        if self.known_background and self.background is None:
            raise SettingsError("the level has no background; name it, such as `background: none`", "known_background")
        return self


class PartLevelEntry(LevelEntry):
    """The classes of a level that another level owns: the parts of all objects. Label 0 is always the background."""

    background: ClassEntry | None = ClassEntry(name="-")
    of: dict[Name, tuple[Name, ...]]
    """Object -> its parts, in the order of their channels, which follow the object's channel 0."""
    without_object: tuple[Name, ...] = ()
    """Parts that keep their label although no object has them; published label sets contain such parts."""

    @field_validator("background", mode="before")
    @classmethod
    def _has_background(cls, background: Any) -> Any:
        if background is None:
            raise ValueError('label 0 of the parts is always a background; leave the key out to name it "-"')
        return background

    @field_validator("known_background")
    @classmethod
    def _is_always_known(cls, known_background: bool) -> bool:
        if known_background:
            raise ValueError("pixels of an object without a part are always known; leave the key out")
        return known_background

    @model_validator(mode="after")
    def _parts_have_owners(self) -> PartLevelEntry:
        known, without = {entry.name for entry in self.classes}, set(self.without_object)
        owned: set[str] = set()
        for owner, parts in self.of.items():
            if not parts:
                raise SettingsError(f"object {owner!r} has no parts; list them, or leave the object out", "of", owner)
            _check_part_names(parts, known, "of", owner)
            owned.update(parts)
        _check_part_names(self.without_object, known, "without_object")
        for position, part in enumerate(self.without_object):
            if part in owned:
                raise SettingsError(f"part {part!r} has an object under `of`", "without_object", position)
        for position, entry in enumerate(self.classes):
            if entry.name not in owned and entry.name not in without:
                raise SettingsError(
                    f"no object has part {entry.name!r}; add it to an object under `of`, or to `without_object`",
                    "classes",
                    position,
                )
        return self


_FIELDS: dict[str, Any] = {
    kind.name: ((PartLevelEntry if kind.owned_by else LevelEntry) | None, None) for kind in LEVEL_KINDS.values()
}


class LevelsEntry(create_model("_Levels", __base__=Settings, **_FIELDS)):
    """Any subset of the levels; a level that another one owns needs its owner."""

    @property
    def entries(self) -> dict[str, LevelEntry]:
        """The levels that the file lists, in the order of `LEVELS`."""
        return {name: entry for name in LEVELS if (entry := getattr(self, name)) is not None}

    @model_validator(mode="before")
    @classmethod
    def _known_and_filled(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if not value:
                raise ValueError(f"there is no level; give at least one of {', '.join(LEVELS)}")
            for level, entry in cast(dict[Any, Any], value).items():
                if level not in LEVELS:
                    raise SettingsError(f"unknown level {shorten(level)}; the levels are {', '.join(LEVELS)}", level)
                if entry is None:
                    raise SettingsError("the level is empty; list its classes, or leave the level out", level)
        return cast(Any, value)

    @model_validator(mode="after")
    def _owners_are_listed(self) -> LevelsEntry:
        entries = self.entries
        for level, entry in entries.items():
            owner_level = LEVEL_KINDS[level].owned_by
            if owner_level is None or not isinstance(entry, PartLevelEntry):
                continue
            if owner_level not in entries:
                raise SettingsError(
                    f"{level}s belong to {owner_level}s, and this taxonomy has no level `{owner_level}`; add it", level
                )
            owners = {owner.name for owner in entries[owner_level].classes}
            for owner in entry.of:
                if owner not in owners:
                    raise SettingsError(f"{owner!r} is not a class of the level `{owner_level}`", level, "of", owner)
        return self


class TaxonomyFile(Settings):
    """The whole taxonomy file."""

    name: Name | None = None
    """None: the file's name without its suffix."""
    description: str = ""
    levels: LevelsEntry


def _check_part_names(parts: tuple[str, ...], known: set[str], *location: str) -> None:
    named: set[str] = set()
    for position, part in enumerate(parts):
        if part not in known:
            raise SettingsError(f"{part!r} is not listed in the classes of the level `part`", *location, position)
        if part in named:
            raise SettingsError(f"part {part!r} is named twice", *location, position)
        named.add(part)
