"""Tests of upernet.evaluation.reliability, compared with torchmetrics and with a plain loop over bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassCalibrationError

from upernet.evaluation.reliability import BINS, Reliability


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(2, 6), st.integers(0, 2**31))
def test_agrees_with_torchmetrics(count: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(count, classes, generator=generator)).softmax(1)
    truth = torch.randint(0, classes, (count,), generator=generator)
    confidence, labels = probabilities.max(1)
    found = Reliability()
    for part in torch.arange(count).tensor_split(3):  # as photos arrive one after another
        found.update(confidence[part], (labels == truth)[part])
    peer = MulticlassCalibrationError(num_classes=classes, n_bins=BINS)(probabilities, truth)
    assert found.ece() == pytest.approx(float(peer), abs=2e-6)


def test_bins_agree_with_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(500) * 0.6 + 0.4
    correct = random.random(500) < confidence
    found = Reliability()
    found.update(torch.from_numpy(confidence), torch.from_numpy(correct))
    bins = found.bins()
    assert len(bins) == BINS and sum(bin_.count for bin_ in bins) == 500
    for number, bin_ in enumerate(bins):
        inside = (confidence >= number / BINS) & (confidence < (number + 1) / BINS)
        assert bin_.count == inside.sum()
        if inside.any():
            assert bin_.confidence == pytest.approx(confidence[inside].mean(), abs=1e-6)
            assert bin_.accuracy == pytest.approx(correct[inside].mean())
        else:
            assert bin_.confidence is bin_.accuracy is None


def test_the_ends_of_the_range() -> None:
    found = Reliability()
    assert found.ece() is None
    found.update(torch.tensor([0.0, 1.0]), torch.tensor([False, True]))
    assert found.ece() == 0
    assert [bin_.count for bin_ in found.bins()] == [1, *[0] * (BINS - 2), 1]


def test_the_sum_does_not_depend_on_the_order() -> None:
    random = torch.Generator().manual_seed(0)
    confidence, correct = torch.rand(1000, generator=random), torch.rand(1000, generator=random) < 0.5
    forwards, backwards, other = Reliability(), Reliability(), Reliability()
    forwards.update(confidence, correct)
    backwards.update(confidence[2:].flip(0), correct[2:].flip(0))
    other.update(confidence[:2], correct[:2])
    backwards += other
    assert backwards.ece() == forwards.ece() and torch.equal(backwards.counts, forwards.counts)
