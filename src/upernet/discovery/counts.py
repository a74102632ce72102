"""What one photo says about the relations between the classes of two levels, in shares of its pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upernet.inference.saved import ClassMap, ParsedPhoto

PAIRS: tuple[tuple[str, str], ...] = (
    ("scene", "object"),
    ("scene", "part"),
    ("scene", "material"),
    ("object", "part"),
    ("object", "material"),
    ("part", "material"),
    ("material", "texture"),
)
"""The pairs of levels whose classes are related (arXiv 1807.10221, section 5, and scene-part and scene-material)."""
UNIT = 2**24
"""A photo has this many units of area. Sums of whole units are exact in float64 for half a billion photos, so that they
do not depend on the order of the photos."""


class Overlap(NamedTuple):
    """The area that two classes share in a photo."""

    a: str | None
    """Class of the first level; None: none of its classes."""
    b: str | None
    """Class of the second level; None: none of its classes."""
    area: int
    """Units of area; of a scene, those where the photo has class b."""


@dataclass(frozen=True)
class PhotoCounts:
    """The overlaps of a photo, for each pair of levels that it has.

    Only pixels count whose class is known at both levels. A photo whose scene is unsure says nothing about scenes.
    """

    pairs: dict[str, list[Overlap]]
    """Pair, such as "object-material" -> overlaps."""
    unsure: dict[str, dict[str, int]]
    """Pair -> class of the first level -> units of its area where the second level is unsure."""

    def to_json(self) -> str:
        """Return the counts as JSON."""
        return json.dumps([self.pairs, self.unsure], ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> PhotoCounts:
        """Create the counts from what `to_json` returns."""
        pairs, unsure = json.loads(text)
        return cls({pair: [Overlap(*entry) for entry in overlaps] for pair, overlaps in pairs.items()}, unsure)


def pair_name(a: str, b: str) -> str:
    """Return the name of a pair of levels."""
    return f"{a}-{b}"


def count(photo: ParsedPhoto) -> PhotoCounts:
    """Count how much area each class of one level shares with each class of another one."""
    found = PhotoCounts({}, {})
    for a, b in PAIRS:
        if b not in photo.maps:
            continue
        pair = pair_name(a, b)
        if a in photo.maps:
            found.pairs[pair], found.unsure[pair] = _of_maps(photo.maps[a], photo.maps[b])
        elif (scene := photo.image_labels.get(a)) is not None:
            found.pairs[pair], found.unsure[pair] = _of_image_label(scene, photo.maps[b])
    return found


def _of_maps(a: ClassMap, b: ClassMap) -> tuple[list[Overlap], dict[str, int]]:
    columns = len(b.names) + 1  # the first one is for unsure
    joint = (a.labels.astype(np.intp) + 1) * columns + (b.labels + 1)
    pixels: NDArray[np.int64] = np.bincount(joint.ravel(), minlength=(len(a.names) + 1) * columns)
    table: NDArray[np.int64] = np.reshape(pixels, (-1, columns))[1:]
    overlaps: list[Overlap] = []
    unsure: dict[str, int] = {}
    for row, column in np.argwhere(table).tolist():
        name, area = _name(a, row), units(int(table[row, column]), a.labels.size)
        if column:
            overlaps.append(Overlap(name, _name(b, column - 1), area))
        elif name is not None:
            unsure[name] = area
    return overlaps, unsure


def _of_image_label(name: str, b: ClassMap) -> tuple[list[Overlap], dict[str, int]]:
    pixels: Sequence[int] = np.bincount(b.labels.ravel() + 1, minlength=len(b.names) + 1).tolist()
    unsure, *known = (units(area, b.labels.size) for area in pixels)
    found = [Overlap(name, _name(b, label), area) for label, area in enumerate(known) if area]
    return found or [Overlap(name, None, 0)], {name: unsure}  # the scene is known even if nothing else is


def units(pixels: int, of: int) -> int:
    """Return an area as whole units: `pixels` of a photo with `of` pixels."""
    return (pixels * UNIT + of // 2) // of


def _name(of: ClassMap, label: int) -> str | None:
    return None if of.background and label == 0 else of.names[label]
