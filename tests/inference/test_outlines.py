"""Tests of upernet.inference.components and outlines: connected components, and polygons around them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from upernet.inference.components import connected_runs
from upernet.inference.outlines import polygons

LABELS = arrays.arrays(
    np.int16, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.integers(-1, 2)
)


def flooded(labels: np.ndarray, diagonal: bool) -> np.ndarray:
    """Return the number of each pixel's component, found pixel by pixel."""
    numbers = np.full(labels.shape, -1)
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if diagonal or abs(dy) + abs(dx) == 1]
    count = 0
    for start in np.ndindex(labels.shape):
        if numbers[start] >= 0:
            continue
        stack = [start]
        numbers[start] = count
        while stack:
            y, x = stack.pop()
            for dy, dx in steps:
                at = (y + dy, x + dx)
                inside = 0 <= at[0] < labels.shape[0] and 0 <= at[1] < labels.shape[1]
                if inside and numbers[at] < 0 and labels[at] == labels[start]:
                    numbers[at] = count
                    stack.append(at)
        count += 1
    return numbers


@given(LABELS, st.booleans())
@settings(deadline=None)
def test_components_are_those_of_a_flood_fill(labels: np.ndarray, diagonal: bool) -> None:
    components = connected_runs(labels, diagonal).component_map
    numbers = np.unique(components, return_inverse=True)[1].reshape(labels.shape)
    np.testing.assert_array_equal(numbers, flooded(labels, diagonal))


def test_a_spiral_is_one_component() -> None:
    spiral = np.zeros((101, 101), int)
    for ring in range(0, 50, 2):
        spiral[ring, ring : 101 - ring] = spiral[100 - ring, ring : 101 - ring] = 1
        spiral[ring : 101 - ring, ring] = spiral[ring : 101 - ring, 100 - ring] = 1
        spiral[ring + 1, ring] = 0
        spiral[ring + 2, ring + 1] = 1
    runs = connected_runs(spiral, diagonal=False)
    assert len(np.unique(runs.components[runs.labels == 1])) == flooded_count(spiral)


def flooded_count(mask: np.ndarray) -> int:
    numbers = flooded(mask, diagonal=False)
    return len(np.unique(numbers[mask == 1]))


def even_odd(shape: tuple[int, ...], rings: list[list[tuple[int, int]]]) -> np.ndarray:
    """Fill rings by the even-odd rule.

    A pixel is inside if a ray from it to the left crosses their edges an odd number of times.
    """
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            assert (x0 == x1) != (y0 == y1)  # edges of pixels, without empty ones
            if x0 == x1:
                crossings[min(y0, y1) : max(y0, y1), x0] += 1
    return crossings.cumsum(axis=1)[:, :-1] % 2 == 1


def signed_area(ring: list[tuple[int, int]]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True)) / 2


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
@settings(deadline=None, max_examples=300)
def test_polygons_cover_the_mask_exactly(mask: np.ndarray) -> None:
    found = polygons(mask)
    np.testing.assert_array_equal(even_odd(mask.shape, [ring for polygon in found for ring in polygon]), mask)
    assert len(found) == flooded_count(mask)
    for outer, *holes in found:
        for ring in (outer, *holes):
            assert len(set(ring)) == len(ring) >= 4  # no ring touches itself
            turns = zip(ring, [*ring[1:], ring[0]], [*ring[2:], *ring[:2]], strict=True)
            assert all((a[0] == b[0]) != (b[0] == c[0]) for a, b, c in turns)  # only corners
        assert signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in holes)
    assert sum(signed_area(ring) for polygon in found for ring in polygon) == mask.sum()


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (["##"], [[[(0, 0), (2, 0), (2, 1), (0, 1)]]]),
        (["#.", ".#"], [[[(0, 0), (1, 0), (1, 1), (0, 1)]], [[(1, 1), (2, 1), (2, 2), (1, 2)]]]),
        ([".."], []),
    ],
)
def test_small_polygons(rows: list[str], wanted: object) -> None:
    assert polygons(np.array([[letter == "#" for letter in row] for row in rows])) == wanted


def test_a_hole_that_touches_the_outside_at_a_corner() -> None:
    """Check a ring of pixels with a gap at one corner: the outline touches itself there, and becomes two rings."""
    mask = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    ((outer, hole),) = polygons(mask, offset=(10, 20))
    assert len(outer) == 6 and sorted(hole) == [(11, 21), (11, 22), (12, 21), (12, 22)]
