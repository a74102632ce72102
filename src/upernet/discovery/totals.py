"""Sums over the photos: how many have each class and each relation, how large they are, and which show it best."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from upernet.discovery.counts import UNIT, PhotoCounts
from upernet.discovery.store import StoredPhoto
from upernet.taxonomy import LEVEL_KINDS

Classes = tuple[str, str]
"""A class of the first level and one of the second."""


@dataclass
class Sum:
    """In how many photos something is, and the area that it has in all of them together, in units."""

    photos: int = 0
    area: int = 0


class Example(NamedTuple):
    """A photo that shows a relation. Larger ones come first; equal ones are ordered by key."""

    area: int
    """Units of area."""
    key: str
    folder: str | None
    photo: str | None


class Presence(NamedTuple):
    """What one photo adds to the sums of a pair of levels."""

    a: dict[str, tuple[int, int]]
    """Class of the first level -> whether it counts as present, 0 or 1, and its area."""
    b: dict[str, tuple[int, int]]
    joint: dict[Classes, tuple[int, int]]
    area: int
    """Area where both levels are known."""
    unsure: Mapping[str, int]
    """Class of the first level -> its area where the second level is unsure."""


@dataclass
class PairTotals:
    """The sums of one pair of levels."""

    photos: int = 0
    """Photos with both levels; those with an unsure scene do not count for pairs with scenes."""
    area: int = 0
    a: dict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))
    b: dict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))
    joint: dict[Classes, Sum] = field(default_factory=lambda: defaultdict(Sum))
    unsure: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Class of the first level -> its area where the second level is unsure."""
    examples: dict[Classes, list[Example]] = field(default_factory=lambda: defaultdict(list))

    def add(self, found: Presence, photo: StoredPhoto, examples: int) -> None:
        """Add what a photo says, and keep it as an example where it shows a relation better than others."""
        self.photos += 1
        self.area += found.area
        for sums, added in ((self.a, found.a), (self.b, found.b), (self.joint, found.joint)):
            for classes, (present, area) in added.items():
                total = sums[classes]  # pyright: ignore[reportArgumentType]
                total.photos += present
                total.area += area
        for name, area in found.unsure.items():
            self.unsure[name] += area
        for classes, (present, area) in found.joint.items():
            if present and examples:
                best = self.examples[classes]
                best.append(Example(area, photo.key, photo.folder, photo.photo))
                if len(best) > examples:
                    best[:] = best_first(best)[:examples]


def best_first(examples: Iterable[Example]) -> list[Example]:
    """Return examples, those with the largest area first."""
    return heapq.nsmallest(1 << 30, examples, key=lambda example: (-example.area, example.key))


def presence(pair: str, counts: PhotoCounts, min_area: float) -> Presence:
    """Sum the overlaps of a photo over each class, and tell which classes and relations count as present.

    Args:
        pair: The pair of levels.
        counts: The counts of a photo that has both levels.
        min_area: Share of the photo from which on a class, or the overlap of two, counts as present. The scene of a
            photo is always present.
    """
    least = max(1, round(min_area * UNIT))
    dense = LEVEL_KINDS[pair.partition("-")[0]].dense
    areas_a: dict[str, int] = defaultdict(int)
    areas_b: dict[str, int] = defaultdict(int)
    joint: dict[Classes, int] = {}
    overlaps = counts.pairs[pair]
    for a, b, area in overlaps:
        if a is not None:
            areas_a[a] += area
        if b is not None:
            areas_b[b] += area
        if a is not None and b is not None:
            joint[a, b] = area
    return Presence(
        {name: (int(area >= least or not dense), area) for name, area in areas_a.items()},
        {name: (int(area >= least), area) for name, area in areas_b.items()},
        {classes: (int(area >= least), area) for classes, area in joint.items()},
        sum(area for _, _, area in overlaps),
        counts.unsure[pair],
    )


def total(photos: Iterable[StoredPhoto], min_area: float, examples: int) -> dict[str, PairTotals]:
    """Sum over all photos: pair of levels -> sums."""
    totals: dict[str, PairTotals] = {}
    for photo in photos:
        for pair in photo.counts.pairs:
            found = presence(pair, photo.counts, min_area)
            totals.setdefault(pair, PairTotals()).add(found, photo, examples)
    return totals
