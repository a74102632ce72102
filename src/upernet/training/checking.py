"""What `train` would refuse in a recipe, found without building weights or decoding photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from upernet.checkpoints import check_backbone_weights, check_reference
from upernet.distributed import World
from upernet.errors import UpernetError
from upernet.evaluation.calibration import check_calibration
from upernet.models import UPerNet, build_model
from upernet.models.backbones import as_backbone
from upernet.recipe import Recipe, TrainingSpec
from upernet.training.optimizer import create_optimizer
from upernet.training.result import ResultWriter
from upernet.training.stages import open_stages
from upernet.training.validation import create_validator

ONE_PROCESS = World(0, 1, torch.device("cpu"))


def training_problems(recipe: Recipe, data_dir: str | Path) -> list[str]:
    """Return one sentence for each fault of the model, the stages and the calibration of a recipe.

    The model is built without values (on torch's meta device), and the sources are opened: their files are listed.
    """
    found: list[str] = []
    for check in _checks(recipe, Path(data_dir)):
        try:
            check()
        except UpernetError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _checks(recipe: Recipe, data_dir: Path) -> Iterator[Callable[[], object]]:
    training = recipe.training
    models: list[UPerNet] = []

    def build() -> None:
        with torch.device("meta"):
            models.append(build_model(recipe))

    yield build
    if recipe.model.backbone_weights is not None:
        yield lambda: check_backbone_weights(recipe.model.backbone, recipe.model.backbone_weights or "")
    if training is None or not models:
        yield lambda: check_calibration(recipe.load_taxonomy(), recipe)
        return
    (model,) = models
    yield ResultWriter(Path(), recipe, data_dir, model, ONE_PROCESS, print).check
    yield lambda: create_validator(recipe, model.taxonomy, data_dir)
    if training.initialize_from is not None:
        yield lambda: check_reference(training.initialize_from or "", backbones=True)
    if training.gradient_checkpointing:
        yield lambda: as_backbone(model.backbone).set_grad_checkpointing()
    for stage in training.stages:
        alone = training.model_copy(update={"stages": (stage,)})
        yield lambda alone=alone: _check_stage(recipe, alone, model, data_dir)


def _check_stage(recipe: Recipe, training: TrainingSpec, model: UPerNet, data_dir: Path) -> None:
    (stage,) = open_stages(recipe, training, model, data_dir, ONE_PROCESS)
    create_optimizer(model, stage.spec)
