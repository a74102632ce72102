"""The registry of models: every bundled recipe is one."""

from __future__ import annotations

from upernet.models.upernet import UPerNet
from upernet.recipe import Recipe, list_recipes


def list_models() -> list[str]:
    """Return the names of the bundled recipes, which `upernet.create_model` accepts."""
    return list_recipes()


def build_model(recipe: Recipe) -> UPerNet:
    """Return the model of `recipe`, with random weights and in training mode."""
    return UPerNet(recipe.model, recipe.load_taxonomy())
