"""Tests of upernet.evaluation.thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers.color_network import TAXONOMY
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.evaluation.confidences import STEPS, TEMPERATURES, UNCHANGED, Confidences, tally
from upernet.evaluation.reliability import Reliability
from upernet.evaluation.thresholds import (
    PRIOR_PHOTOS,
    SHOW_NOTHING,
    calibration_error,
    choose_temperature,
    class_thresholds,
    share_shown,
    smallest_threshold,
)

Pairs = Sequence[tuple[float, bool]]
"""Confidences of predictions, and whether they are right."""


def count(pairs: Pairs, label: int = 0) -> torch.Tensor:
    """Return one `tally` per temperature, as if temperatures changed nothing."""
    confidence, right = zip(*pairs, strict=True)
    labels = torch.full((len(pairs),), label)
    counts = tally(labels, torch.tensor(confidence, dtype=torch.float64), torch.tensor(right), 3)
    return counts.expand(len(TEMPERATURES), -1, -1, -1)


def confidences(labeled: Sequence[Pairs], negative: Sequence[Pairs] = ()) -> Confidences:
    found = Confidences(TAXONOMY.level("object"))
    for sources, is_negative in ((labeled, False), (negative, True)):
        for pairs in sources:
            found.add(count(pairs), torch.tensor([1, 0, 0]), len(pairs), is_negative)
    return found


def threshold(target: float, labeled: Sequence[Pairs], negative: Sequence[Pairs] = ()) -> float | None:
    return smallest_threshold(confidences(labeled, negative).mixture()[UNCHANGED].sum(0), target)


def test_the_smallest_threshold_that_reaches_the_target() -> None:
    source = [(0.3, False), (0.5, True), (0.7, False), (0.9, True), (0.95, True)]
    assert threshold(0.6, [source]) == 0  # 3 of 5
    assert threshold(0.75, [source]) == pytest.approx(0.301)  # 3 of the 4 above 0.3
    assert threshold(0.9, [source]) == pytest.approx(0.701)
    assert threshold(1.0, [source]) == pytest.approx(0.701)


def test_a_threshold_shows_the_pixels_that_reach_it() -> None:
    assert threshold(1.0, [[(0.25, False), (0.5, True)]]) == pytest.approx(0.251)
    assert threshold(1.0, [[(0.999, False), (1.0, True)]]) == 1


def test_out_of_reach() -> None:
    assert threshold(0.9, [[(0.4, True), (0.8, False)]]) is None
    assert threshold(0.9, []) is None


def test_sources_count_equally_whatever_their_size() -> None:
    large, small = [(0.5, True)] * 90, [(0.5, False), (0.9, True)]
    # All shown: (1 + 1/2) / 2 = 0.75, not 91 / 92.
    assert threshold(0.75, [large, small]) == 0
    assert threshold(0.76, [large, small]) == pytest.approx(0.501)


def test_negatives_together_count_as_much_as_labels_together() -> None:
    labeled = [[(0.6, True), (0.9, True)]]
    negative = [[(0.2, False), (0.95, False)], [(0.7, False)] * 50]
    assert threshold(0.5, labeled, negative) == 0  # 1 / (1 + 1)
    assert threshold(0.55, labeled, negative) == pytest.approx(0.201)  # 1 / (1 + 3/4)
    assert threshold(0.6, labeled, negative) == pytest.approx(0.701)  # 1/2 / (1/2 + 1/4)
    assert threshold(0.7, labeled, negative) is None


def test_agrees_with_a_plain_search() -> None:
    random = np.random.default_rng(1)
    confidence = random.integers(0, 1001, 300) / 1000
    right = random.random(300) < confidence
    expected = next(
        t / 1000 for t in range(1001) if (shown := confidence >= t / 1000 - 1e-9).any() and right[shown].mean() >= 0.8
    )
    # Half a step away from the borders between steps, where rounding decides.
    pairs = list(zip((confidence + 0.0005).tolist(), right.tolist(), strict=True))
    assert threshold(0.8, [pairs]) == pytest.approx(expected)


def test_classes_have_thresholds_of_their_own() -> None:
    found = Confidences(TAXONOMY.level("object"))
    weak: Pairs = [(0.4, False), (0.6, False), (0.8, True)]
    counts = count([(0.4, True), (0.6, True), (0.8, True)]) + count(weak, label=1)
    many = 1000  # photos, so that the whole level hardly counts
    found.add(counts, torch.tensor([many, many, 0]), 6, negative=False)
    chosen = class_thresholds(found, UNCHANGED, 0.9)
    assert chosen == {"sky": 0, "tree": pytest.approx(0.601)}  # nothing says anything about "person"


def test_a_class_on_few_photos_is_judged_like_its_level() -> None:
    found = Confidences(TAXONOMY.level("object"))
    counts = count([(0.5, True)] * 96 + [(0.2, False)] * 2) + count([(0.5, False), (0.6, False)], label=1)
    found.add(counts, torch.tensor([50, 1, 0]), 100, negative=False)
    # One photo of its own, with nothing right, against PRIOR_PHOTOS with 0.96.
    share = PRIOR_PHOTOS * 0.96 / (PRIOR_PHOTOS + 1)
    assert class_thresholds(found, UNCHANGED, share - 0.01)["tree"] == 0
    assert class_thresholds(found, UNCHANGED, 0.95)["tree"] == SHOW_NOTHING


def test_the_temperature_brings_confidence_to_accuracy() -> None:
    found = torch.zeros(len(TEMPERATURES), 2, STEPS + 1, dtype=torch.float64)
    for index in range(len(TEMPERATURES)):  # the higher the temperature, the lower the confidence
        found[index, :, 900 - 30 * index] = torch.tensor([0.3, 0.7])
    best = choose_temperature(found)
    assert best == 7 and calibration_error(found[best]) == pytest.approx(0.01, abs=0.001)
    found[:, :, :] = found[UNCHANGED]
    assert choose_temperature(found) == UNCHANGED


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_the_calibration_error_is_that_of_evaluation(pairs: Pairs) -> None:
    # In the middle of steps, which lie in one bin each.
    pairs = [((min(999, int(confidence * STEPS)) // 67 * 67 + 20.5) / STEPS, right) for confidence, right in pairs]
    other = Reliability()
    other.update(torch.tensor([c for c, _ in pairs]), torch.tensor([right for _, right in pairs]))
    assert calibration_error(count(pairs)[UNCHANGED].sum(0).double()) == pytest.approx(other.ece(), abs=1e-3)


def test_what_a_user_sees() -> None:
    weights = confidences([[(0.2, False), (0.5, True), (0.9, True), (0.95, False)]]).labeled()[UNCHANGED]
    assert share_shown(weights, torch.tensor([0.5, 0.0, 0.0])) == (0.75, pytest.approx(2 / 3))
    assert share_shown(weights, torch.tensor([SHOW_NOTHING, 0.0, 0.0])) == (0, 0)
