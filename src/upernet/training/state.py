"""The folder and the saved state of a run.

A state is one safetensors file with everything that the next iteration depends on.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.files import write_safetensors
from upernet.recipe import Recipe
from upernet.taxonomy import Taxonomy
from upernet.training.optimizer import MovingAverage


@dataclass(frozen=True)
class Position:
    """How far a run is: `iteration` iterations of stage number `stage` are done."""

    stage: int = 0
    iteration: int = 0


def identify_run(recipe: Recipe, taxonomy: Taxonomy, photos: Mapping[str, int], initial: str) -> str:
    """Return a JSON text of everything that determines what an iteration does, apart from the state.

    A state is resumed only by a run with the same text. Settings that change neither weights nor losses are left out.

    Args:
        recipe: The recipe.
        taxonomy: Its taxonomy.
        photos: Number of photos per source.
        initial: Checkpoint that the run started from.
    """
    settings = recipe.model_dump(
        mode="json",
        exclude={
            "name": True,
            "description": True,
            "taxonomy": True,
            "data": True,
            "calibration": True,
            "parse_short_side": True,
            "sources": {"__all__": {"scored", "test_resize"}},
            "training": {"workers", "checkpoint_every", "gradient_checkpointing"},
        },
    )
    content = {"recipe": settings, "taxonomy": taxonomy.to_dict(), "photos": dict(photos), "initial": initial}
    return json.dumps(content, sort_keys=True)


def save_state(
    path: Path,
    identity: str,
    position: Position,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    average: MovingAverage | None,
) -> None:
    """Write the state of a run atomically.

    Args:
        path: File to write.
        identity: See `identify_run`.
        position: How far the run is.
        model: The model.
        optimizer: Its optimizer; None between stages.
        average: Moving average of the weights, if there is one.
    """
    tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{key}": value for key, value in average.state.items()}
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    content = {
        "identity": identity,
        "stage": position.stage,
        "iteration": position.iteration,
        "average_updates": average.updates if average else 0,
    }
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_safetensors(path, contiguous, {"upernet_run": json.dumps(content)})


class SavedState:
    """A state that `save_state` wrote.

    Args:
        path: File to read.
        identity: Identity of the run that resumes it.

    Raises:
        UpernetError: The file is not a saved state, or is the state of another run.
    """

    def __init__(self, path: Path, identity: str) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                content = json.loads((file.metadata() or {})["upernet_run"])
                self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise UpernetError(
                f"{path}: not the state of a training run; delete it to start anew ({error})."
            ) from error
        if content["identity"] != identity:
            raise UpernetError(
                f"{path.parent}: holds a run of another recipe, other data or another version of upernet; "
                "give another --out, or delete it."
            )
        self.position = Position(content["stage"], content["iteration"])
        self.average_updates: int = content["average_updates"]

    def restore_model(self, model: nn.Module, average: MovingAverage | None) -> None:
        """Load the weights into the model and the moving average."""
        model.load_state_dict(self._below("model/"))
        if average is not None:
            for key, value in self._below("average/").items():
                average.state[key].copy_(value)
            average.updates = self.average_updates

    def restore_optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load the moments into the optimizer."""
        for name, parameter in model.named_parameters():
            state = self._below(f"optimizer/{name}/")
            if state:
                # Moments get the memory layout of their parameter, because sums over another layout round differently.
                optimizer.state[parameter] = {
                    key: value if key == "step" else torch.empty_like(parameter).copy_(value)
                    for key, value in state.items()
                }

    def _below(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


@contextmanager
def lock_folder(folder: Path) -> Generator[None, None, None]:
    """Create the folder of a run and lock it, and remove unfinished files of a killed run.

    Raises:
        UpernetError: Another run has locked the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            for leftover in folder.glob(".*.safetensors"):
                leftover.unlink()
            yield
    except Timeout:
        raise UpernetError(f"{folder}: another run is writing there; wait for it, or give another --out.") from None
    except OSError as error:
        raise UpernetError(f"{folder}: cannot be written ({error.strerror}); choose another folder.") from error
