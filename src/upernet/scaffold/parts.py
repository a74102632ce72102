"""Which objects own which parts: measured where the masks of both lie on each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upernet.data.images import read_color_mask, read_mask
from upernet.data.sources.colors import color_codes
from upernet.scaffold.classes import ClassPlan
from upernet.scaffold.measure import in_threads
from upernet.scaffold.naming import BACKGROUND

LEAST_SHARE = 0.1
"""Share of a part's pixels that lie on an object from which the object owns the part."""
MOST_PHOTOS = 500


@dataclass(frozen=True)
class OwnedMask:
    """The masks of an object level and of the parts of one photo."""

    objects: Path
    parts: Path


def owners(masks: Sequence[OwnedMask], objects: ClassPlan, parts: ClassPlan) -> dict[str, list[str]]:
    """Return object -> its parts, for the objects that have parts, in the order of the classes."""

    def overlap(mask: OwnedMask) -> Counter[tuple[str, str]]:
        own, part = _read(mask.objects, objects), _read(mask.parts, parts)
        if own.shape != part.shape:
            return Counter()
        pairs, counts = np.unique(np.stack([own.ravel(), part.ravel()]), axis=1, return_counts=True)
        names = zip(*pairs.tolist(), counts.tolist(), strict=True)
        object_names, part_names = _names(objects), _names(parts)
        return Counter(
            {
                (object_names[own_key], part_names[part_key]): count
                for own_key, part_key, count in names
                if own_key in object_names and part_key in part_names
            }
        )

    total: Counter[tuple[str, str]] = Counter()
    for found in in_threads(overlap, masks[:: len(masks) // MOST_PHOTOS + 1]):
        if isinstance(found, Counter):
            for pair, count in found.items():
                total[pair] += count
    on_objects: Counter[str] = Counter()
    for (_, part), count in total.items():
        on_objects[part] += count
    found = {
        entry.name: [
            part.name
            for part in parts.classes
            if part.name != BACKGROUND and total[entry.name, part.name] > LEAST_SHARE * on_objects[part.name]
        ]
        for entry in objects.classes
        if entry.name != BACKGROUND
    }
    return {owner: own for owner, own in found.items() if own}


def _names(plan: ClassPlan) -> Mapping[int, str]:
    return {key: entry.name for entry in plan.classes for key in entry.keys}


def _read(path: Path, plan: ClassPlan) -> np.ndarray:
    return read_mask(path) if plan.kind == "values" else color_codes(read_color_mask(path))
