"""What a label map shows, as sentences speak of it: one thing or several, where, and how certain."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from upernet.inference.components import connected_runs
from upernet.inference.label_map import LabelMap
from upernet.inference.nouns import COLLECTIVE, head, is_mass, is_plural, noun, plural, with_article

GRID = 192
"""Cells along the longer side of the grid on which regions are counted."""
LEAST_REGION = 0.25
"""Regions with a smaller share of the largest one of their class are not counted."""
NEAR = 4
"""Cells between two regions of a class up to which they count as one, which something thin divides."""
WIDE = 0.5
"""Share of the photo's width from which on a region of a collective class, such as trees, is named in the plural."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in cells; right and bottom are not inside."""


class Thing(NamedTuple):
    """What a photo shows of one class."""

    label: int
    name: str
    """The noun, without an article."""
    share: float
    """Share of the photo."""
    confidence: float
    """Mean confidence."""
    several: bool
    left: float
    """Left edge as a fraction of the photo's width."""
    right: float
    """Right edge as a fraction of the photo's width."""

    def __str__(self) -> str:
        """Return the noun with its article, or in the plural."""
        return plural(self.name) if self.several else with_article(self.name)

    @property
    def subject(self) -> str:
        """The noun, in the plural if there are several: what follows "the"."""
        return plural(self.name) if self.several else self.name

    @property
    def is_plural(self) -> bool:
        """Whether a verb after the subject is in the plural."""
        return is_plural(self.name) or (self.several and not is_mass(self.name))

    @property
    def position(self) -> str | None:
        """Where the thing is; None if that is not clear."""
        center, width = (self.left + self.right) / 2, self.right - self.left
        if self.several or is_mass(self.name) or width > 0.5:
            return None
        if center < 0.36:
            return "on the left"
        if center > 0.64:
            return "on the right"
        return "in the middle" if 0.42 < center < 0.58 else None


def find_things(label_map: LabelMap, labels: Collection[int], where: np.ndarray | None = None) -> list[Thing]:
    """Return what the photo shows of some classes, in the order of `labels`.

    Args:
        label_map: The label map.
        labels: The labels.
        where: bool H x W, the pixels to look at. Default: all.
    """
    step = max(1, -(-max(label_map.labels.shape) // GRID))
    rows, columns = (slice(min(step, length) // 2, None, step) for length in label_map.labels.shape)
    cells = (rows, columns)
    grid, confidence = label_map.labels[cells], label_map.confidence[cells]
    if where is not None:
        grid = np.where(where[cells], grid, -1)
    counts = label_map.counts(where)
    boxes = _boxes(grid, labels)
    things: list[Thing] = []
    for label in labels:
        name, found = noun(label_map.names[label]), boxes.get(label, [(0, 0, grid.shape[1], 1)])
        left = min(box[0] for box in found) / grid.shape[1]
        right = max(box[2] for box in found) / grid.shape[1]
        several = len(found) > 1 or (head(name) in COLLECTIVE and right - left >= WIDE)
        own = confidence[grid == label]
        mean = float(own.mean()) if own.size else 0.0
        things.append(Thing(label, name, counts.get(label, 0) / label_map.labels.size, mean, several, left, right))
    return things


def _boxes(grid: np.ndarray, labels: Collection[int]) -> dict[int, list[Box]]:
    """Return the boxes of the large regions of each label; those that are close are one."""
    runs = connected_runs(grid)
    areas = np.bincount(runs.components, runs.lengths)
    largest: dict[int, float] = {}
    found: dict[int, list[Box]] = {}
    for component in np.argsort(-areas, kind="stable").tolist():
        if not areas[component]:
            break
        label = int(runs.labels[component])  # a component has the number of its first run
        if label not in labels or areas[component] < LEAST_REGION * largest.setdefault(label, float(areas[component])):
            continue
        own = runs.components == component
        rows = runs.rows[own]
        box = (int(runs.starts[own].min()), int(rows[0]), int(runs.ends[own].max()), int(rows[-1]) + 1)
        found[label] = _merged(found.get(label, []), box)
    return found


def _merged(boxes: list[Box], new: Box) -> list[Box]:
    """Return the boxes with one more, which takes up all that are at most `NEAR` cells away."""
    apart: list[Box] = []
    for box in boxes:
        if max(box[0] - new[2], new[0] - box[2], box[1] - new[3], new[1] - box[3]) > NEAR:
            apart.append(box)
        else:
            new = (min(box[0], new[0]), min(box[1], new[1]), max(box[2], new[2]), max(box[3], new[3]))
    return [*apart, new]
