"""Tests of upernet.training.seeds."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
from torch.nn import functional

from upernet.training.seeds import dropout_seed, sampling_seed

SEED_ACROSS_STAGES = 1_000_003 // 7
"""Iteration of stage 0 whose seed used to be close to that of iteration 0 of stage 1."""


@pytest.mark.slow
def test_dropout_differs_between_stages_iterations_and_processes() -> None:
    iterations = [*range(50), *range(SEED_ACROSS_STAGES, SEED_ACROSS_STAGES + 10)]
    masks: Counter[bytes] = Counter()
    for stage, iteration, rank in product((0, 1), iterations, range(16)):
        torch.manual_seed(dropout_seed(0, stage, iteration, rank))
        masks[functional.dropout(torch.ones(256)).numpy().tobytes()] += 1
    repeated = sum(count - 1 for count in masks.values())
    assert not repeated, f"{repeated} of {masks.total()} dropout masks are repetitions"


def test_dropout_is_a_function_of_its_arguments() -> None:
    """A resumed run needs the same masks, in any process and on any platform."""
    assert dropout_seed(3, 1, 20, 2) == dropout_seed(3, 1, 20, 2)
    assert dropout_seed(3, 1, 20, 2) != dropout_seed(4, 1, 20, 2)
    assert dropout_seed(0, 0, 0, 0) == 10365329691178071993


def test_photos_that_recipes_sample_stay() -> None:
    """The photos of published recipes depend on these seeds."""
    assert [sampling_seed(5, stage) for stage in range(3)] == [5, 1_000_008, 2_000_011]
