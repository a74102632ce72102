"""The registry of models: every shipped recipe is one."""

from __future__ import annotations

from upernet.models.upernet import UPerNet
from upernet.recipe import Recipe, list_recipes, load_recipe
from upernet.taxonomy import load_taxonomy


def list_models() -> list[str]:
    """Return the names that `create_model` accepts."""
    return list_recipes()


def create_model(name: str) -> UPerNet:
    """Return the model of a recipe, with random weights and in training mode.

    Args:
        name: name of a shipped recipe, or path of a YAML file.

    Raises:
        UpernetError: the name is unknown, or the recipe is invalid.
    """
    return build_model(load_recipe(name))


def build_model(recipe: Recipe, pretrained: bool = False) -> UPerNet:
    """Return the model of `recipe`; `pretrained` lets timm load its ImageNet weights into the backbone."""
    return UPerNet(recipe.model, load_taxonomy(recipe.taxonomy), pretrained)
