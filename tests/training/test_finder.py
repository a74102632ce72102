"""Tests of upernet.training.finder: the suggested learning rate."""

from __future__ import annotations

import csv
import math

import pytest
from PIL import Image

from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.training.finder import find_learning_rate, suggest


def test_the_steepest_place_before_the_minimum_is_suggested() -> None:
    """A logistic fall around 1e-3, then a rise."""
    rates = [10 ** (-6 + 6 * step / 99) for step in range(100)]
    curve = [(rate, 3 / (1 + math.exp(4 * (math.log10(rate) + 3))) + max(0, math.log10(rate) + 1) ** 2)
             for rate in rates]  # fmt: skip
    rate, _ = suggest(curve)
    assert 4e-4 < rate < 2.5e-3
    with pytest.raises(UpernetError, match="no learning rate lowers the loss"):
        suggest([(rate, rate) for rate in rates])
    with pytest.raises(UpernetError, match="no learning rate"):
        suggest([])


@pytest.mark.slow
def test_the_test_writes_its_curve_and_nothing_else(recipe_file, data, tmp_path) -> None:
    lines: list[str] = []
    rate = find_learning_rate(
        load_recipe(recipe_file()), data, tmp_path / "run", device="cpu", iterations=40, quiet=True, log=lines.append
    )
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lr.csv", "lr.png"]
    with (tmp_path / "run" / "lr.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert 1e-6 <= rate <= 1 and len(rows) > 4
    assert f"Suggested learning rate: {rate:.1e} (the recipe has 3.0e-03)." in lines
    with Image.open(tmp_path / "run" / "lr.png") as picture:
        assert picture.width > 300
