"""Tests of upernet.ops.thresholds: both kernels do, pixel by pixel, what the definition says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import apply_thresholds, use_kernel
from upernet.ops.thresholds import UNSURE, Owners


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.sampled_from([UNSURE, 0]))
@settings(max_examples=30, deadline=None)
def test_each_label_is_judged_by_the_threshold_of_its_class(
    kernel: str, seed: int, height: int, width: int, owned: bool, below: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def integers(least: int, most: int) -> torch.Tensor:
        return torch.randint(least, most, (height, width), generator=generator).to(torch.int16)

    labels, whose = integers(0, 4), integers(-1, 3)
    confidence, thresholds = torch.rand(height, width, generator=generator), torch.rand(4, generator=generator)
    judged = torch.tensor([True, False, True])
    expected = labels.clone()
    for y in range(height):
        for x in range(width):
            owner = int(whose[y, x]) if owned else 0
            if owner == UNSURE:
                expected[y, x] = UNSURE
            elif judged[owner] and confidence[y, x] < thresholds[int(labels[y, x])]:
                expected[y, x] = below
    with use_kernel(apply_thresholds=kernel):
        apply_thresholds(labels, confidence, thresholds, below, Owners(whose, judged) if owned else None)
    assert torch.equal(labels, expected)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_a_probability_that_is_no_number_is_not_below_a_threshold(kernel: str) -> None:
    labels = torch.zeros(1, 1, dtype=torch.int16)
    with use_kernel(apply_thresholds=kernel):
        apply_thresholds(labels, torch.full((1, 1), float("nan")), torch.ones(1))
    assert labels.item() == 0


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="no kernel quick"), use_kernel(apply_thresholds="quick"):
        apply_thresholds(torch.zeros(1, 1, dtype=torch.int16), torch.zeros(1, 1), torch.zeros(1))
