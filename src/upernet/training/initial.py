"""The model of a run, and the weights that it starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from upernet.checkpoints import find_checkpoint, initialize_model, load_backbone_weights
from upernet.checkpoints.imagenet import automatic_sources, is_research_only
from upernet.checkpoints.native import research_only_checkpoint
from upernet.distributed import World, broadcast_from_main
from upernet.models import UPerNet, build_model
from upernet.recipe import Recipe, TrainingSpec


class InitialWeights(NamedTuple):
    """The weights that a run starts from."""

    origin: str
    """Where they came from, for people."""
    research_only: bool
    """Whether they are for research or non-commercial use only, which then holds for what is trained from them."""


def build_training_model(recipe: Recipe, training: TrainingSpec, world: World) -> UPerNet:
    """Return the model of a recipe with random weights, which follow from the seed, on the device of this process."""
    torch.manual_seed(training.seed)
    model = build_model(recipe)
    if training.gradient_checkpointing:
        model.backbone.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
    return model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_initial_weights(
    model: UPerNet, recipe: Recipe, initial: str | Path | None, world: World, log: Callable[[str], None]
) -> InitialWeights:
    """Load the weights of a checkpoint, or ImageNet weights of the backbone, in all processes.

    Only the main process reads or downloads them.

    Args:
        model: The model, with random weights.
        recipe: Its recipe.
        initial: Checkpoint or name of a published model; None: the recipe's `backbone_weights`.
        world: This process among all processes.
        log: Receives one line that says which weights were found.

    Returns:
        The weights that were loaded; in other processes than the main one, nothing is known about them.

    Raises:
        UpernetError: The weights cannot be found, or belong to another network.
    """
    loaded = InitialWeights("", False)
    if world.is_main:
        loaded = _load_checkpoint(model, initial, log) if initial is not None else _load_backbone(model, recipe, log)
    broadcast_from_main(model.state_dict().values())
    return loaded


def _load_checkpoint(model: UPerNet, initial: str | Path, log: Callable[[str], None]) -> InitialWeights:
    path = find_checkpoint(initial, backbones=True)
    modules = sorted({key.rpartition(".")[0] for key in initialize_model(model, path)})
    log(f"Loaded weights from {path}; new in whole or in part: {', '.join(modules) or 'nothing'}.")
    return InitialWeights(str(path), research_only_checkpoint(initial, path))


def _load_backbone(model: UPerNet, recipe: Recipe, log: Callable[[str], None]) -> InitialWeights:
    name, weights = recipe.model.backbone, recipe.model.backbone_weights
    if weights is None:
        log(f"Backbone {name} starts from random weights, as the recipe says (backbone_weights: null).")
        return InitialWeights("random", False)
    source = load_backbone_weights(model.backbone, name, weights)
    if source is None:
        log(
            f"Backbone {name} starts from random weights, because no ImageNet weights are at hand, and training takes "
            f"much longer; set backbone_weights to a file, or {_advice(name)}."
        )
        return InitialWeights("random", False)
    log(f"Backbone {name} starts from ImageNet weights ({source}).")
    return InitialWeights(source, is_research_only(name, source))


def _advice(name: str) -> str:
    return "start where there is a network" if automatic_sources(name) else "choose another backbone"
