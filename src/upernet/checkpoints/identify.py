"""Identification of the model in a checkpoint: architecture, classes and card.

A native file says all of it. For a file of another program the architecture is inferred from the tensors, and the rest
is taken from the recipe that was given, or from the shipped recipe of the same architecture and classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from upernet.checkpoints.architecture import (
    backbone_of,
    decoder_of,
    has_feature_norms,
    is_upernet,
    levels_of,
    num_classes_of,
)
from upernet.checkpoints.card import ModelCard, card_of
from upernet.checkpoints.formats import NamedWeights, unifiedparsing
from upernet.checkpoints.header import card_of_header
from upernet.errors import UpernetError
from upernet.models import list_models
from upernet.recipe import ModelSpec, Recipe, load_recipe
from upernet.taxonomy import Taxonomy, load_taxonomy


@dataclass(frozen=True)
class ModelInfo:
    """The model that a checkpoint holds."""

    name: str
    """Name of the model in errors."""
    spec: ModelSpec
    taxonomy: Taxonomy
    card: ModelCard


def info_of_recipe(recipe: Recipe, origin: str | None = None) -> ModelInfo:
    """Return what `recipe` says of its model, read from a file of the format `origin` (None: the native one)."""
    return ModelInfo(recipe.name, recipe.model, recipe.load_taxonomy(), card_of(recipe, origin))


def identify_by_recipe(file: NamedWeights, recipe: Recipe) -> ModelInfo:
    """Return what `recipe` says of the file of another program.

    Raises:
        UpernetError: the file gives as many class names as it has classes, and they are not those of the recipe.
    """
    info = info_of_recipe(recipe, file.origin)
    card = card_of_header(file.metadata, file.path)
    if card is not None and card.research_only:
        info = replace(info, card=info.card.with_terms(info.card.license or card.license, True))
    names = file.class_names
    if len(names) == num_classes_of(file.tensors) and _are_other_classes(names, info.taxonomy):
        raise UpernetError(
            f"{file.path}: of another taxonomy than {recipe.name}: its classes are {', '.join(names[:3])}, ...; "
            "load it without naming a model."
        )
    return info


def identify_by_tensors(file: NamedWeights) -> ModelInfo:
    """Return what the tensors of the file of another program say, completed by a shipped recipe if one matches.

    Raises:
        UpernetError: the tensors are not a whole UPerNet, or its backbone has no name here.
    """
    backbone, count = backbone_of(file.tensors), num_classes_of(file.tensors)
    if not count:
        raise UpernetError(
            f"{file.path}: a backbone alone ({backbone}), which has no classes; name it as backbone_weights in a "
            "recipe to train a model from it."
        )
    if not is_upernet(file.tensors):
        raise UpernetError(
            f"{file.path}: a network of {file.origin} whose decode head is not UPerNet's; give a UPerNet checkpoint."
        )
    if backbone is None:
        raise UpernetError(
            f"{file.path}: UPerNet with a backbone that has no name here; give a recipe that describes it."
        )
    values = {"backbone": backbone, "feature_norms": has_feature_norms(file.tensors)} | decoder_of(file.tensors)
    if file.origin == unifiedparsing.NAME:
        values["pooling"] = "precise"
    try:
        spec = ModelSpec.model_validate(values)
    except ValidationError as error:
        raise UpernetError(f"{file.path}: has tensors without values; fetch or write it again.") from error
    taxonomy = taxonomy_of(file, count)
    card = card_of_header(file.metadata, file.path)
    if card is not None:
        card = card.model_copy(update={"origin": file.origin})
        return ModelInfo(card.name or file.path.stem, spec, taxonomy, card)
    recipe = matching_recipe(spec, taxonomy)
    if recipe is not None:
        return ModelInfo(recipe.name, recipe.model, taxonomy, card_of(recipe, file.origin))
    name = f"UPerNet with {backbone}"
    return ModelInfo(name, spec, taxonomy, ModelCard(name=file.path.stem, description=name, origin=file.origin))


def matching_recipe(spec: ModelSpec, taxonomy: Taxonomy) -> Recipe | None:
    """Return the shipped recipe with this architecture and these classes, or None."""
    for recipe in map(load_recipe, list_models()):
        if same_architecture(recipe.model, spec) and same_classes(recipe.load_taxonomy(), taxonomy):
            return recipe
    return None


def same_architecture(spec: ModelSpec, reference: ModelSpec) -> bool:
    """Return whether two specs build the same network, apart from an auxiliary head that `reference` lacks."""
    excluded = {
        "backbone_weights",
        "drop_path",
        "dropout",
        "norm_momentum",
        "initialization",
    }  # they leave no trace in the weights
    if not reference.auxiliary_channels:
        excluded.add("auxiliary_channels")
    return spec.model_dump(exclude=excluded) == reference.model_dump(exclude=excluded)


def same_classes(a: Taxonomy, b: Taxonomy) -> bool:
    """Return whether the channels of the logits mean the same; colors and descriptions may differ."""
    return _channels(a) == _channels(b)


def taxonomy_of(file: NamedWeights, count: int) -> Taxonomy:
    """Return the classes of the file of another program.

    Broden's if the released code of Unified Perceptual Parsing wrote it; ADE20K's if there are 150 and the file does
    not name others; else those that it names; else `class 0`, `class 1`...

    Args:
        file: the file.
        count: number of channels of the object logits.
    """
    if file.origin == unifiedparsing.NAME:
        return load_taxonomy("broden").subset(levels_of(file.tensors))
    names = file.class_names if len(file.class_names) == count else ()
    ade20k = load_taxonomy("ade20k150")
    if count == 150 and not _are_other_classes(names, ade20k):
        return ade20k
    return Taxonomy.of_objects(names or count, file.path.stem, f"Classes of {file.path.name}.")


def _are_other_classes(names: Sequence[str], taxonomy: Taxonomy) -> bool:
    """Return whether half of `names` or more differ: programs spell a few of a data set's names in their own way."""
    ours = taxonomy.levels["object"].names if "object" in taxonomy.levels else ()
    same = sum(a == b for a, b in zip(names, ours, strict=False))
    return len(names) == len(ours) and 2 * same <= len(ours)


def _channels(taxonomy: Taxonomy) -> object:
    levels = {level.name: (level.names, level.background) for level in taxonomy.levels.values()}
    return levels, taxonomy.part_groups
