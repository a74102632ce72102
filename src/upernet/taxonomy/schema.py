"""The shape of a taxonomy file, and everything that can be wrong with one."""

from __future__ import annotations

import re
from typing import Any

from pydantic import field_validator, model_validator

from upernet.settings import Settings, SettingsError
from upernet.taxonomy.levels import LEVELS


class ClassEntry(Settings):
    """One class: its name alone, or `{name: ..., color: "#rrggbb"}`."""

    name: str
    color: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, (dict, ClassEntry)):
            raise SettingsError(
                f"{value!r} is not a class; write a name (in quotes if YAML takes it for another type) "
                'or {name: ..., color: "#rrggbb"}'
            )
        return value

    @field_validator("name")
    @classmethod
    def _name_has_letters(cls, name: str) -> str:
        if not name or name != name.strip():
            raise ValueError("a class name must not be empty, nor begin or end with a space")
        return name

    @field_validator("color", mode="before")
    @classmethod
    def _six_digits(cls, color: Any) -> Any:
        if not isinstance(color, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
            raise ValueError(
                f'{color!r} is not a colour; write it as "#rrggbb", in quotes (# outside quotes begins a comment)'
            )
        return color


class LevelEntry(Settings):
    """The classes of a level; `background` (label 0, if given) means nothing that is listed."""

    background: ClassEntry | None = None
    classes: tuple[ClassEntry, ...]

    @field_validator("classes", mode="before")
    @classmethod
    def _not_empty(cls, classes: Any) -> Any:
        if classes is None or classes in ([], ()):
            raise ValueError("the level is empty; list at least one class, or leave the level out")
        return classes

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


class PartLevelEntry(LevelEntry):
    """The part names of all objects; label 0 is always the background."""

    background: ClassEntry | None = ClassEntry(name="-")
    of: dict[str, tuple[str, ...]]
    """Owner object -> its parts, in the order of the channels that follow the owner's local 0."""
    without_object: tuple[str, ...] = ()
    """Part names that keep their label although no object has them (published label sets contain such)."""

    @field_validator("background", mode="before")
    @classmethod
    def _always_a_background(cls, background: Any) -> Any:
        if background is None:
            raise ValueError('label 0 of the parts is always a background; leave the key out to name it "-"')
        return background

    @model_validator(mode="after")
    def _parts_have_owners(self) -> PartLevelEntry:
        known = {entry.name for entry in self.classes}
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
            if entry.name not in owned and entry.name not in self.without_object:
                raise SettingsError(
                    f"no object has part {entry.name!r}; add it to an object under `of`, or to `without_object`",
                    "classes",
                    position,
                )
        return self


class LevelsEntry(Settings):
    """Any subset of the levels; `part` needs `object`."""

    scene: LevelEntry | None = None
    object: LevelEntry | None = None
    part: PartLevelEntry | None = None
    material: LevelEntry | None = None
    texture: LevelEntry | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_and_filled(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if not value:
                raise ValueError(f"there is no level; give at least one of {', '.join(LEVELS)}")
            for level, entry in value.items():
                if level not in LEVELS:
                    raise SettingsError(f"unknown level {level!r}; the levels are {', '.join(LEVELS)}", level)
                if entry is None:
                    raise SettingsError("the level is empty; list its classes, or leave the level out", level)
        return value

    @model_validator(mode="after")
    def _parts_of_known_objects(self) -> LevelsEntry:
        if self.part is None:
            return self
        if self.object is None:
            raise SettingsError("parts belong to objects, and this taxonomy has no level `object`; add it", "part")
        objects = {entry.name for entry in self.object.classes}
        for owner in self.part.of:
            if owner not in objects:
                raise SettingsError(f"{owner!r} is not a class of the level `object`", "part", "of", owner)
        return self


class TaxonomyFile(Settings):
    """A taxonomy file as a whole."""

    name: str | None = None
    """None: the file's name without its ending."""
    description: str = ""
    levels: LevelsEntry


def _check_part_names(parts: tuple[str, ...], known: set[str], *location: str) -> None:
    for position, part in enumerate(parts):
        if part not in known:
            raise SettingsError(f"{part!r} is not listed in the classes of the level `part`", *location, position)
        if part in parts[:position]:
            raise SettingsError(f"part {part!r} is named twice", *location, position)
