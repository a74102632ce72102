"""Outlines of masks as polygons along the edges of the pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from upernet.inference.components import connected_runs

Ring = list[tuple[int, int]]
"""The corners (x, y) of a closed outline, each once. Pixel (x, y) covers x to x + 1 and y to y + 1."""
Polygon = list[Ring]
"""The outer ring, then the holes. With y pointing down, the outer ring is clockwise and the holes are not, so that the
shoelace formula is positive for outer rings, as RFC 7946 (GeoJSON) wants it for axes in the usual order."""


def polygons(mask: np.ndarray, offset: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """Return the exact outlines of a mask H x W, one polygon for each group of pixels that are connected by edges.

    The polygons are valid as the Simple Features standard (OGC 06-103r4) defines it: rings do not cross, and touch
    themselves and each other in single points only.

    Args:
        mask: The mask.
        offset: Added to the corners (x, y).

    Example:
        >>> polygons(np.ones((1, 2), bool))
        [[[(0, 0), (2, 0), (2, 1), (0, 1)]]]
    """
    runs = connected_runs(mask.astype(np.int8), diagonal=False)
    found: dict[int, Polygon] = {}
    for component, ring in _rings(mask, runs.component_map):
        found.setdefault(component, []).extend(_split(ring))
    for rings in found.values():
        rings.sort(key=_signed_area, reverse=True)  # the only positive one is the outer ring
    return [[_shifted(ring, offset) for ring in rings] for _, rings in sorted(found.items())]


def _rings(mask: np.ndarray, components: np.ndarray) -> Iterator[tuple[int, Ring]]:
    """Yield the closed walks along the edges of a mask, with the mask on the right, and the component that each is of.

    At each corner of the mask, one horizontal and one vertical edge meet. Along a line of the pixel grid, corners are
    the two ends of an edge in turn, so that sorting pairs them. Where two pixels touch diagonally, there are two
    corners, one for each pixel.
    """
    inside = np.pad(mask, 1)
    upper_left, upper_right = inside[:-1, :-1], inside[:-1, 1:]
    lower_left, lower_right = inside[1:, :-1], inside[1:, 1:]
    number = upper_left.astype(np.int8) + upper_right + lower_left + lower_right
    saddle = (number == 2) & (upper_left == lower_right)
    found: list[np.ndarray] = []
    for quarter, right, down in (
        (upper_left, False, False),
        (upper_right, True, False),
        (lower_left, False, True),
        (lower_right, True, True),
    ):
        # A corner alone in its quarter: its edges border that pixel. An empty quarter alone: they border the gap.
        convex = ((number == 1) | saddle) & quarter
        concave = (number == 3) & ~quarter
        for kind, turned in ((convex, False), (concave, True)):
            y, x = np.nonzero(kind)
            # The opposite quarter of a gap is a pixel of the mask.
            pixel = (y - 1 + (down ^ turned), x - 1 + (right ^ turned))
            sides = [np.full_like(x, value) for value in (right, down, turned)]
            found.append(np.stack([x, y, *sides, components[pixel]]))
    x, y, right, down, concave, component = np.concatenate(found, axis=1)
    across = _partners(np.lexsort((right, x, y)))
    along = _partners(np.lexsort((down, y, x)))
    # Walking away from a corner with the mask on the right: horizontally from upper left and lower right pixels of it.
    horizontal_first = (right == down) != (concave == 1)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    done = [False] * len(points)
    starts_across = horizontal_first.tolist()
    for first in range(len(points)):
        if done[first] or not starts_across[first]:
            continue
        ring: Ring = []
        corner = first
        while not done[corner]:
            turn = across[corner]
            done[corner] = done[turn] = True
            ring += [points[corner], points[turn]]
            corner = along[turn]
        yield int(component[first]), ring


def _partners(order: np.ndarray) -> list[int]:
    """Pair the corners that follow each other in `order`, and return the partner of each."""
    partners = np.empty_like(order)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners.tolist()


def _split(ring: Ring) -> Iterator[Ring]:
    """Split a ring that touches itself into rings that do not."""
    walk: Ring = []
    position: dict[tuple[int, int], int] = {}
    for corner in ring:
        if corner in position:
            start = position[corner]
            loop = walk[start:]
            for other in loop[1:]:
                del position[other]
            del walk[start + 1 :]
            yield loop
        else:
            position[corner] = len(walk)
            walk.append(corner)
    yield walk


def _shifted(ring: Ring, offset: tuple[int, int]) -> Ring:
    """Return the ring with `offset` added, starting at its first corner from above, and from the left."""
    start = min(range(len(ring)), key=lambda i: ring[i][::-1])
    return [(x + offset[0], y + offset[1]) for x, y in ring[start:] + ring[:start]]


def _signed_area(ring: Ring) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True)) / 2
