"""The classes of a level: their names, colors, and how much of each there is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from upernet.errors import UpernetError
from upernet.scaffold.class_tables import Color
from upernet.scaffold.measure import Kind, Measurement
from upernet.scaffold.naming import BACKGROUND, Names

BACKGROUND_COLOR: Color = (64, 64, 64)


@dataclass(frozen=True)
class PlannedClass:
    """A class of the taxonomy.

    Attributes:
        name: Its name.
        keys: The values or color codes that mean it.
        color: Its color, if the data say one.
        pixels: Pixels of it in all masks.
        photos: Photos that show it.
    """

    name: str
    keys: tuple[int, ...]
    color: Color | None
    pixels: int
    photos: int


@dataclass(frozen=True)
class ClassPlan:
    """The classes of a level.

    Attributes:
        kind: Whether their keys are class numbers or colors.
        classes: The classes.
        unknown: Value or color code -> why its pixels are unknown.
        unknown_pixels: Pixels of unknown class.
        where_from: Where the names are from, for people.
        never: Classes of the table that no mask shows.
        notes: Assumptions, one sentence each.
    """

    kind: Kind
    classes: Sequence[PlannedClass]
    unknown: Mapping[int, str] = field(default_factory=dict[int, str])
    unknown_pixels: int = 0
    where_from: str = ""
    never: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def shares(self) -> dict[str, float]:
        """Class -> its share of the labeled pixels."""
        total = max(1, sum(entry.pixels for entry in self.classes))
        return {entry.name: entry.pixels / total for entry in self.classes}


def plan_classes(measured: Measurement, named: Names) -> ClassPlan:
    """Return the classes of a level, named as `named` says.

    Raises:
        UpernetError: The masks show a single class, or none.
    """
    names, unknown = named.names, named.unknown
    pixels = measured.pixels
    photos: Counter[str] = Counter()
    for mask in measured.masks:
        photos.update({names[key] for key in mask.pixels if key in names})
    palette = {names[key]: color for key, color in measured.palette.items() if key in names}
    keys: dict[str, list[int]] = {}
    for key, name in names.items():
        keys.setdefault(name, []).append(key)
    classes: list[PlannedClass] = []
    for name, own in keys.items():
        color = named.colors.get(name)
        if color is None and name in palette:
            color = (palette[name] >> 16, palette[name] >> 8 & 255, palette[name] & 255)
        if name == BACKGROUND and color in (None, (0, 0, 0)):
            color = BACKGROUND_COLOR
        elif color is not None and len(set(color)) == 1 and measured.kind == "values":
            color = None  # gray palettes say nothing
        classes.append(PlannedClass(name, tuple(own), color, sum(pixels[key] for key in own), photos[name]))
    if len(classes) < 2:
        only = f"only {classes[0].name}" if classes else "no class"
        raise UpernetError(f"the masks show {only}; a model needs at least two classes to tell apart.")
    unknown_pixels = sum(pixels[key] for key in unknown)
    return ClassPlan(measured.kind, classes, unknown, unknown_pixels, named.where_from, named.never, named.notes)


def plain_name(text: str) -> str:
    """Return a name that may stand in file names and on the command line: lower case, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-") or "photos"
