"""What is evaluated: a model, and the photos of a recipe or of the folder of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from upernet.checkpoints import load_model
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import Recipe, list_recipes, load_recipe

RUN_RECIPE, RUN_MODEL = "recipe.yaml", "model.safetensors"


@dataclass(frozen=True)
class Subject:
    """A model and the photos to evaluate it on."""

    model: UPerNet
    recipe: Recipe
    data_dir: Path
    """Folder that contains the folders of the recipe's sources."""
    device: str | torch.device = "cpu"


def is_run(reference: str | Path) -> bool:
    """Return whether `reference` is the folder of a training run; the name of a bundled recipe is none."""
    return str(reference) not in list_recipes() and (Path(reference) / RUN_RECIPE).is_file()


def open_recipe(reference: str | Path) -> Recipe:
    """Return the recipe that `reference` names, or that of the run in a folder, called as the folder.

    Raises:
        UpernetError: There is no such recipe, or it is wrong.
    """
    path = Path(reference)
    if is_run(reference):
        return load_recipe(path / RUN_RECIPE).model_copy(update={"name": path.resolve().name})
    if str(reference) and str(reference) not in list_recipes() and path.is_dir():
        raise UpernetError(f"{reference}: no training run, as it has no {RUN_RECIPE}; give a run or a recipe.")
    if len(path.parts) > 1 and path.suffix not in (".yaml", ".yml") and not path.exists():
        raise UpernetError(f"{reference}: no such folder or file; give a run or a recipe.")
    return load_recipe(reference)


def open_model(reference: str | Path, checkpoint: str | Path | None = None) -> UPerNet:
    """Return the model to evaluate, in eval mode.

    Args:
        reference: Recipe, or folder of a run.
        checkpoint: Weights; None: those of the run or, for a recipe, the bundled or published ones.

    Raises:
        UpernetError: There are no such weights, or they do not fit.
    """
    if not is_run(reference):
        return load_model(str(reference), checkpoint)
    if checkpoint is None and not (Path(reference) / RUN_MODEL).is_file():
        raise UpernetError(
            f"{reference}: the run has no {RUN_MODEL} yet; go on with its training, or give other weights with "
            "--checkpoint."
        )
    return load_model(str(Path(reference) / RUN_RECIPE), checkpoint or reference)
