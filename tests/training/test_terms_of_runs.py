"""Tests of upernet.training.initial and upernet.training.result: a run hands on the terms of what it learned from."""

from pathlib import Path

import pytest

from upernet.checkpoints import load_checkpoint, save_checkpoint
from upernet.checkpoints.header import card_in
from upernet.checkpoints.terms import SWITCH
from upernet.errors import UpernetError
from upernet.models import build_model
from upernet.recipe import load_recipe
from upernet.training import train


def card_after(file: Path):
    card = card_in(file)
    assert card is not None
    return card


@pytest.mark.slow
def test_what_starts_from_research_weights_is_for_research_too(recipe_file, data, tmp_path, monkeypatch):
    recipe = load_recipe(recipe_file())
    for name, restricted in (("free", False), ("restricted", True)):
        start = tmp_path / f"{name}.safetensors"
        save_checkpoint(start, build_model(recipe), {"research_only": restricted})
        run = tmp_path / name
        train(recipe, data, run, initialize_from=start, iterations=2, quiet=True, log=lambda line: None)
        # resumed: the initial weights are not read again
        path = train(recipe, data, run, initialize_from=start, iterations=4, quiet=True, log=lambda line: None)
        assert card_after(path).research_only == restricted
    monkeypatch.setenv(SWITCH, "1")
    load_checkpoint(tmp_path / "free" / "model.safetensors")
    with pytest.raises(UpernetError, match=SWITCH):
        train(recipe, data, tmp_path / "new", initialize_from=start, quiet=True)
    assert not (tmp_path / "new" / "model.safetensors").exists()


@pytest.mark.slow
def test_what_learns_from_research_data_is_for_research_too(recipe_file, data, tmp_path):
    recipe = load_recipe(recipe_file())
    places = recipe.sources["places"]
    terms = places.terms.model_copy(update={"research_only": True})
    sources = recipe.sources | {"places": places.model_copy(update={"terms": terms})}
    recipe = recipe.model_copy(update={"sources": sources, "license": "CC-BY-NC-4.0"})
    path = train(recipe, data, tmp_path / "run", iterations=2, quiet=True, log=lambda line: None)
    card = card_after(path)
    assert (card.license, card.research_only) == ("CC-BY-NC-4.0", True)
