"""`Taxonomy`: the classes of each level that a model recognizes."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex, cast

from upernet.errors import UpernetError, shorten
from upernet.settings import check_settings, read_settings
from upernet.taxonomy.levels import LEVEL_KINDS
from upernet.taxonomy.palette import BACKGROUND_COLOR, Color, default_colors
from upernet.taxonomy.schema import MOST_CLASSES, LevelEntry, PartLevelEntry, TaxonomyFile

IGNORE = -1
"""Label of pixels and images whose class is unknown."""
TAXONOMIES = Path(__file__).parent


@dataclass(frozen=True)
class Level:
    """The classes of one level. A label is an index into `names`.

    docs/architecture.md ("Conventions for labels") has the details.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    """RGB, 0..255, one per name."""
    background: bool
    """Whether label 0 means "none of the listed classes"."""
    known_background: bool = False
    """Whether label 0 is annotated like a class: trained, and a class that is predicted there is wrong. Otherwise, the
    class of such pixels is unknown, and they are not scored."""

    @property
    def num_classes(self) -> int:
        """Number of labels, including the background."""
        return len(self.names)

    @property
    def unknown_background(self) -> bool:
        """Whether the class of pixels with label 0 is unknown, in training and in scores (not of parts)."""
        return self.background and not self.known_background

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in reversed(list(enumerate(self.names)))}

    def index(self, name: str) -> int:
        """Return the label of the class `name`.

        Raises:
            UpernetError: The level has no such class; the message suggests similar names.
        """
        try:
            return self._labels[name]
        except (KeyError, TypeError):
            near = difflib.get_close_matches(str(name)[:100], self.names, n=3)
            hint = f"did you mean {' or '.join(repr(other) for other in near)}?" if near else _listing(self.names)
            raise UpernetError(f"the level {self.name} has no class {shorten(name)}; {hint}") from None


@dataclass(frozen=True)
class PartGroup:
    """An object that owns parts, and the slice of the part logits that holds them."""

    owner: int
    """Object label."""
    parts: tuple[int, ...]
    """Part labels of the channels of the slice. `parts[0]` is 0: pixels of the owner without a listed part."""
    start: int
    """First channel of the slice."""

    @property
    def channels(self) -> slice:
        """Channels of the group in the part logits."""
        return slice(self.start, self.start + len(self.parts))


@dataclass(frozen=True)
class Taxonomy:
    """A taxonomy: any subset of `LEVELS`, in that order, and which parts belong to which object.

    `part_groups` is sorted by object label, whatever the order in the file.
    """

    name: str
    description: str
    levels: dict[str, Level]
    part_groups: tuple[PartGroup, ...] = ()

    def level(self, name: str) -> Level:
        """Return the level called `name`.

        Raises:
            UpernetError: This taxonomy has no such level.
        """
        if name not in self.levels:
            raise UpernetError(
                f"the taxonomy {self.name} has no level {shorten(name)}; it has {', '.join(self.levels)}."
            )
        return self.levels[name]

    def subset(self, levels: Collection[str]) -> Taxonomy:
        """Return this taxonomy with only some of its levels, in the same order.

        Raises:
            UpernetError: This taxonomy has no such level, or a level is left out that owns one of them.
        """
        for name in levels:
            owner = LEVEL_KINDS[self.level(name).name].owned_by
            if owner and owner not in levels:
                raise UpernetError(f"the level {name} needs the level {owner}, whose classes own its own; add it.")
        kept = {name: level for name, level in self.levels.items() if name in levels}
        owned = any(LEVEL_KINDS[name].owned_by for name in kept)
        return replace(self, levels=kept, part_groups=self.part_groups if owned else ())

    def num_logits(self, level: str) -> int:
        """Return the number of channels of the logits: one per class; for parts, one per part of each group.

        Raises:
            UpernetError: This taxonomy has no such level.
        """
        return len(self.logit_names(level))

    def logit_names(self, level: str) -> tuple[str, ...]:
        """Return the name of each channel of the logits: that of the class; for parts, `object/part`.

        Raises:
            UpernetError: This taxonomy has no such level.
        """
        names, owner_level = self.level(level).names, LEVEL_KINDS[level].owned_by
        if not owner_level:
            return names
        owners = self.levels[owner_level].names
        return tuple(f"{owners[group.owner]}/{names[part]}" for group in self.part_groups for part in group.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the taxonomy in the form of its YAML file, with all names and colors, as values that JSON can hold."""
        levels: dict[str, Any] = {}
        for level in self.levels.values():
            classes = [
                {"name": name, "color": _hex(color)} for name, color in zip(level.names, level.colors, strict=True)
            ]
            levels[level.name] = {"background": classes.pop(0)} if level.background else {}
            levels[level.name] |= {"known_background": True} if level.known_background else {}
            levels[level.name]["classes"] = classes
            if owner_level := LEVEL_KINDS[level.name].owned_by:
                owners, owned = self.levels[owner_level].names, {p for group in self.part_groups for p in group.parts}
                levels[level.name]["of"] = {
                    owners[group.owner]: [level.names[label] for label in group.parts[1:]] for group in self.part_groups
                }
                levels[level.name]["without_object"] = [
                    name for label, name in enumerate(level.names) if label > 0 and label not in owned
                ]
        return {"name": self.name, "description": self.description, "levels": levels}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Taxonomy:
        """Create a taxonomy from what `to_dict` returns, or from the content of a hand-written file.

        Raises:
            UpernetError: `values` is not a taxonomy; the message names the key.
        """
        return _from_file(check_settings(values, TaxonomyFile, "taxonomy"), "unnamed")

    @classmethod
    def of_objects(cls, classes: int | Sequence[str], name: str = "objects", description: str = "") -> Taxonomy:
        """Create a taxonomy whose only level is `object`, with default colors.

        Args:
            classes: The names of the classes, or how many there are; they are then called "class 0", "class 1", ...
            name: Name of the taxonomy.
            description: Its description.

        Raises:
            UpernetError: There is no class, there are more than 32,767, or a name is empty or appears twice.
        """
        names = _class_names(classes)
        return cls.from_dict({"name": name, "description": description, "levels": {"object": {"classes": names}}})


def _class_names(classes: object) -> list[Any]:
    """Return the names of classes that are given as names or as their number."""
    if isinstance(classes, Iterable) and not isinstance(classes, (str, bytes)):
        return [*cast("Iterable[Any]", classes)]
    if isinstance(classes, SupportsIndex) and not isinstance(classes, bool):
        return [f"class {label}" for label in range(min(index(classes), MOST_CLASSES + 1))]
    raise UpernetError(f"classes {shorten(classes)}: give a list of names, or the number of classes.")


def list_taxonomies() -> list[str]:
    """Return the names of the bundled taxonomies."""
    return sorted(path.stem for path in TAXONOMIES.glob("*.yaml"))


def load_taxonomy(name_or_path: str | Path) -> Taxonomy:
    """Load a bundled taxonomy by name, or any taxonomy by the path of its .yaml file.

    Raises:
        UpernetError: There is no such taxonomy, or the file is wrong; the message names the file, line and key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = TAXONOMIES / f"{name_or_path}.yaml"
        if str(name_or_path) not in list_taxonomies():
            names = ", ".join(list_taxonomies())
            raise UpernetError(
                f"unknown taxonomy {shorten(str(name_or_path))}: give the path of a .yaml file or one of {names}."
            )
    return _from_file(read_settings(path, TaxonomyFile), path.stem)


def _from_file(file: TaxonomyFile, default_name: str) -> Taxonomy:
    entries = file.levels.entries
    levels = {name: _level(name, entry) for name, entry in entries.items()}
    part_groups: tuple[PartGroup, ...] = ()
    for name, entry in entries.items():
        owner_level = LEVEL_KINDS[name].owned_by
        if owner_level and isinstance(entry, PartLevelEntry):
            part_groups = _part_groups(entry, levels[owner_level], levels[name])
    return Taxonomy(file.name or default_name, file.description, levels, part_groups)


def _level(name: str, entry: LevelEntry) -> Level:
    background = entry.background
    classes = ([background] if background else []) + list(entry.classes)
    return Level(
        name=name,
        names=tuple(item.name for item in classes),
        colors=(*([_rgb(background.color) or BACKGROUND_COLOR] if background else []), *_class_colors(entry)),
        background=background is not None,
        known_background=entry.known_background,
    )


def _class_colors(entry: LevelEntry) -> Iterable[Color]:
    """Return the colors of the classes without the background; default colors differ from those that are given."""
    given = [_rgb(item.color) for item in entry.classes]
    background = _rgb(entry.background.color) if entry.background else None
    taken = tuple(color for color in (background, *given) if color)
    defaults = iter(default_colors(given.count(None), taken))
    return [color or next(defaults) for color in given]


def _part_groups(entry: PartLevelEntry, objects: Level, parts: Level) -> tuple[PartGroup, ...]:
    groups: list[PartGroup] = []
    start = 0
    for owner in sorted(entry.of, key=objects.index):
        labels = (0, *(parts.index(name) for name in entry.of[owner]))
        groups.append(PartGroup(objects.index(owner), labels, start))
        start += len(labels)
    return tuple(groups)


def _rgb(color: str | None) -> Color | None:
    return (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)) if color else None


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _listing(names: tuple[str, ...], most: int = 20) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return f"it has {', '.join(names[:most])}{more}."
