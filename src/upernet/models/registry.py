"""Models by name: every shipped recipe is one."""

from __future__ import annotations

from upernet.models.upernet import UPerNet
from upernet.recipe import Recipe, list_recipes, load_recipe
from upernet.taxonomy import load_taxonomy


def list_models() -> list[str]:
    """Names that `create_model` accepts."""
    return list_recipes()


def create_model(name: str) -> UPerNet:
    """The model of a recipe (shipped name or path of a YAML file), with random weights, in training mode.

    Raises:
        UpernetError: unknown name, or the recipe is not valid.
    """
    return build_model(load_recipe(name))


def build_model(recipe: Recipe, pretrained: bool = False) -> UPerNet:
    """The model of `recipe`; `pretrained` lets timm load its own ImageNet weights into the backbone."""
    return UPerNet(recipe.model, load_taxonomy(recipe.taxonomy), pretrained)
