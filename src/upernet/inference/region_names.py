"""Names of regions, written where a region has the most room."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from upernet.inference.components import connected_runs
from upernet.inference.fonts import sized_font
from upernet.inference.label_map import LabelMap
from upernet.inference.wording import readable

CELL = 4
"""Pixels of the drawing per cell of the grid on which places are looked for."""
INSIDE = 0.94
"""Share of a name's box that lies inside its region; specks of other labels do not count as an edge."""
ROOM = (4.0, 3.0, 2.2, 1.6, 1.25, 1.0)
"""Multiples of a name's box that are tried, so that the name comes to the middle of the widest place."""
SMALLER = 0.8
"""Size of the letters in regions without room for the full size."""
MOST_OF_CLASS = 3
"""Largest number of names of one class."""
MOST = 24
"""Largest number of names in a drawing."""


class Place(NamedTuple):
    """Where a name is written."""

    name: str
    x: float
    """Center of the name, in pixels of the drawing."""
    y: float
    height: float
    """Height of the letters in pixels."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom edge of the name."""


def find_places(labels: np.ndarray, label_map: LabelMap, text: float) -> list[Place]:
    """Return a place for the name of each region that has room for it, largest region first.

    A name lies inside its region, as far from the edges as its length allows, so that no two names touch.

    Args:
        labels: int H x W labels at the size of the drawing.
        label_map: The label map, which names the labels; the background and unsure pixels get no name.
        text: Height of the letters in pixels.
    """
    grid = labels[CELL // 2 :: CELL, CELL // 2 :: CELL]
    if not grid.size:
        return []
    runs = connected_runs(grid, diagonal=False)
    areas = np.bincount(runs.components, runs.lengths)
    components = runs.component_map
    values: dict[int, int] = dict(zip(runs.components.tolist(), runs.labels.tolist(), strict=True))
    places: list[Place] = []
    written: dict[int, int] = {}
    for component in np.argsort(-areas, kind="stable").tolist():
        label = values.get(component, -1)
        if areas[component] * CELL**2 < 2 * text**2 or len(places) == MOST:
            break
        if label < int(label_map.background) or written.get(label, 0) == MOST_OF_CLASS:
            continue
        own = runs.components == component
        top, left = int(runs.rows[own].min()), int(runs.starts[own].min())
        rows, columns = slice(top, int(runs.rows[own].max()) + 1), slice(left, int(runs.ends[own].max()))
        place = _place(components[rows, columns] == component, (left, top), readable(label_map.names[label]), text)
        if place is not None and not any(_touch(place.box, other.box) for other in places):
            places.append(place)
            written[label] = written.get(label, 0) + 1
    return places


def draw_region_names(picture: Image.Image, labels: np.ndarray, label_map: LabelMap, text: float) -> None:
    """Write the names of regions into a drawing of the size of `labels`, in white letters with a dark halo.

    Args:
        picture: The RGB drawing, which is changed.
        labels: As `find_places` takes them.
        label_map: As `find_places` takes it.
        text: Height of the letters in pixels.
    """
    draw = ImageDraw.Draw(picture)
    for place in find_places(labels, label_map, text):
        font = sized_font(place.height, [place.name])
        halo = max(2, round(place.height / 7))
        draw.text(
            (place.x, place.y), place.name, "white", font, anchor="mm", stroke_width=halo, stroke_fill=(20, 20, 24)
        )


def _place(mask: np.ndarray, corner: tuple[int, int], name: str, text: float) -> Place | None:
    """Return the place of a name inside a mask of cells, whose upper left corner is at `corner` (x, y) of the grid."""
    sums = np.pad(mask.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    for height in (text, SMALLER * text):
        width = sized_font(height, [name]).getlength(name) + 0.6 * height
        for factor in ROOM:
            rows, columns = (max(1, round(factor * side / CELL)) for side in (1.35 * height, width))
            if rows > mask.shape[0] or columns > mask.shape[1]:
                continue
            inside = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
            y, x = np.nonzero(inside >= max(INSIDE * rows * columns, int(inside.max())))
            if not len(y):
                continue
            best = int(np.argmin((x - np.median(x)) ** 2 + (y - np.median(y)) ** 2))
            center_x = CELL * (corner[0] + int(x[best]) + columns / 2)
            center_y = CELL * (corner[1] + int(y[best]) + rows / 2)
            half_width, half_height = width / 2, 0.675 * height
            box = (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height)
            return Place(name, center_x, center_y, height, box)
    return None


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
