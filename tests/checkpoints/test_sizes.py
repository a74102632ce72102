"""Tests of upernet.checkpoints.sizes and docs/write_sizes.py: what is stored is what the networks have."""

from __future__ import annotations

import json

import pytest

from upernet.checkpoints.sizes import SIZES, counted_size, model_size
from upernet.models import list_models


def test_every_bundled_model_has_a_stored_size() -> None:
    assert list(json.loads(SIZES.read_text())) == list_models(), "run python docs/write_sizes.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_stored_sizes_are_those_of_the_networks(name: str) -> None:
    assert model_size(name) == counted_size(name), "run python docs/write_sizes.py"
