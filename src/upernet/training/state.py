"""The state of a run on disk: everything that the next iteration depends on, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.files import write_safetensors
from upernet.training.optimizer import MovingAverage


@dataclass
class Position:
    """Where a run is: `iteration` iterations of stage number `stage` are done."""

    stage: int = 0
    iteration: int = 0


def save_state(
    path: Path,
    identity: str,
    position: Position,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    average: MovingAverage | None,
) -> None:
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
    """What `save_state` wrote at `path`.

    Raises:
        UpernetError: the file is not a saved run, or is one of another recipe.
    """

    def __init__(self, path: Path, identity: str):
        try:
            with safe_open(path, framework="pt") as file:
                content = json.loads((file.metadata() or {})["upernet_run"])
                self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise UpernetError(f"{path}: not a saved training run; delete it to start anew ({error}).") from error
        if content["identity"] != identity:
            raise UpernetError(
                f"{path.parent}: holds a run of another recipe or other data; give another --out, or delete it."
            )
        self.position = Position(content["stage"], content["iteration"])
        self.average_updates: int = content["average_updates"]

    def restore_model(self, model: nn.Module, average: MovingAverage | None) -> None:
        model.load_state_dict(self._below("model/"))
        if average is not None:
            for key, value in self._below("average/").items():
                average.state[key].copy_(value)
            average.updates = self.average_updates

    def restore_optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in model.named_parameters():
            state = self._below(f"optimizer/{name}/")
            if state:
                # moments take the memory layout of their parameter: a sum over another layout rounds differently
                optimizer.state[parameter] = {
                    key: value if key == "step" else torch.empty_like(parameter).copy_(value)
                    for key, value in state.items()
                }

    def _below(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
