"""Tests of upernet.evaluation.boundary, compared with the definition of arXiv 2103.16562 class by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.evaluation.boundary import BoundaryCounts, boundary_width


def boundary_of_mask(mask: np.ndarray, known: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of a mask that its erosion by `width` pixels removes; the photo's outside is not in the mask.

    Unknown pixels do not erode their neighbors.
    """
    found = np.zeros_like(mask)
    height, length = mask.shape
    for row, column in np.argwhere(mask & known):
        inside = width <= row < height - width and width <= column < length - width
        window = (
            slice(max(row - width, 0), row + width + 1),
            slice(max(column - width, 0), column + width + 1),
        )
        found[row, column] = not inside or not (mask | ~known)[window].all()
    return found


def brute_force(
    prediction: np.ndarray, truth: np.ndarray, counted: np.ndarray, num_classes: int
) -> list[tuple[int, int]]:
    """Return the intersection and the union of the boundaries of each class."""
    width, known = boundary_width(*truth.shape), truth != -1
    pairs: list[tuple[int, int]] = []
    for label in range(num_classes):
        true = boundary_of_mask(truth == label, known, width) & counted
        predicted = boundary_of_mask(prediction == label, known, width) & counted
        pairs.append((int((true & predicted).sum()), int((true | predicted).sum())))
    return pairs


@st.composite
def photos(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw a prediction and a truth of blocks, so that there are regions and contours, with unknown pixels."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width, block = draw(st.integers(1, 90)), draw(st.integers(1, 90)), draw(st.integers(1, 30))
    coarse = (-(-height // block), -(-width // block))
    maps = [np.kron(random.integers(-1, 4, coarse), np.ones((block, block), int))[:height, :width] for _ in range(2)]
    noise = random.random((height, width)) < 0.01
    return np.where(noise, 0, maps[0]), np.where(noise, -1, maps[1])


@settings(max_examples=60, deadline=None)
@given(photos(), st.booleans())
def test_agrees_with_the_definition(photo: tuple[np.ndarray, np.ndarray], background: bool) -> None:
    prediction, truth = photo
    counted = truth > 0 if background else truth != -1
    counts = BoundaryCounts(4)
    counts.update(*(torch.from_numpy(values) for values in (prediction, truth, counted)))
    true, predicted, both = counts.counts
    assert list(zip(both.tolist(), (true + predicted - both).tolist(), strict=True)) == brute_force(
        prediction, truth, counted, 4
    )


@pytest.mark.parametrize(("size", "width"), [((1, 1), 1), ((30, 40), 1), ((360, 480), 12), ((1024, 2048), 46)])
def test_the_boundary_is_two_percent_of_the_diagonal_wide(size: tuple[int, int], width: int) -> None:
    assert boundary_width(*size) == width


def test_a_shifted_region_loses_more_at_its_boundary() -> None:
    truth = torch.zeros(200, 200, dtype=torch.int64)
    truth[50:150, 50:150] = 1
    shifted = truth.roll(4, 0)
    counts = BoundaryCounts(2)
    counts.update(shifted, truth, torch.ones_like(truth, dtype=torch.bool))
    both = int(((truth == 1) & (shifted == 1)).sum())
    assert counts.iou()[1] < 0.8 < both / (2 * 100 * 100 - both)


def test_perfect_predictions_score_one_and_absent_classes_nothing() -> None:
    truth = torch.randint(0, 3, (40, 50), generator=torch.Generator().manual_seed(0))
    counts = BoundaryCounts(4)
    counts.update(truth, truth, torch.ones_like(truth, dtype=torch.bool))
    assert counts.iou()[:3].tolist() == [1, 1, 1] and counts.iou()[3].isnan()


def test_counts_add_up() -> None:
    truth = torch.randint(0, 3, (2, 40, 50), generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(40, 50, dtype=torch.bool)
    both, first, second = (BoundaryCounts(3) for _ in range(3))
    for counts, photo in ((first, 0), (second, 1), (both, 0), (both, 1)):
        counts.update(truth[photo], truth[1 - photo], everywhere)
    first += second
    assert torch.equal(first.counts, both.counts)
