"""The saved state of a run.

A state is one safetensors file with everything that the next iteration depends on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.files import write_safetensors
from upernet.recipe import Recipe
from upernet.taxonomy import Taxonomy
from upernet.training.history import Validation
from upernet.training.optimizer import MovingAverage
from upernet.training.plan import Position, iterations_done

FORMAT = 2
"""Version of the saved state, which only runs of the same version resume."""

Identity = dict[str, Any]
"""What `identify_run` returns."""


@dataclass
class Progress:
    """What a run remembers beside its weights.

    Attributes:
        position: How far it is.
        lengths: Number of iterations of each stage.
        planned: The same as the recipe gave it, to notice when the recipe changes.
        validations: All validations so far.
        kept: Iteration whose model is the best one so far, in `model.safetensors`; None: there is none yet.
        stale: Number of validations in a row that were no better than the best one, in this stage.
        weights: Where the initial weights came from, for people.
        research_only: Whether the initial weights are for research or non-commercial use only.
        asked: Number of iterations of all stages that was last asked for instead of the recipe's; None: none was.
    """

    position: Position
    lengths: tuple[int, ...]
    planned: tuple[int, ...]
    validations: list[Validation] = field(default_factory=list[Validation])
    kept: int | None = None
    stale: int = 0
    weights: str = ""
    research_only: bool = False
    asked: int | None = None

    @property
    def done(self) -> int:
        """Number of iterations of all stages that are done."""
        return iterations_done(self.lengths, self.position)

    @property
    def total(self) -> int:
        """Number of iterations of all stages."""
        return sum(self.lengths)


def identify_run(recipe: Recipe, taxonomy: Taxonomy, photos: Mapping[str, int], initial: str) -> Identity:
    """Return everything that determines what an iteration does, apart from the state, as JSON types.

    A state is resumed only by a run with the same identity. Settings that change neither weights nor losses are left
    out, and so are the lengths of the stages, which the state keeps.

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
            "license": True,
            "taxonomy": True,
            "data": True,
            "calibration": True,
            "parse_short_side": True,
            "sources": {"__all__": {"scored", "test_resize", "terms"}},
            "training": {
                "workers": True,
                "checkpoint_every": True,
                "gradient_checkpointing": True,
                "validation": True,
                "loggers": True,
                "stages": {"__all__": {"iterations"}},
            },
        },
    )
    for source in settings["sources"].values():
        if source["kind"] == "collage":
            source["photos"] = source["photos"].get("train")
            continue
        source["splits"] = source["splits"].get("train")
        source["lists"] = Path(source["lists"].get("train", "")).name
    content = {"recipe": settings, "taxonomy": taxonomy.to_dict(), "photos": dict(photos), "initial": initial}
    return json.loads(json.dumps({"format": FORMAT, **content}))


def save_state(
    path: Path,
    identity: Identity,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
) -> None:
    """Write the state of a run atomically.

    Args:
        path: File to write.
        identity: See `identify_run`.
        progress: How far the run is.
        model: The model.
        optimizer: Its optimizer.
        average: Moving average of the weights, if there is one.
    """
    tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{key}": value for key, value in average.state.items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    content = {
        "identity": identity,
        "progress": asdict(progress),
        "average_updates": average.updates if average else 0,
    }
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_safetensors(path, contiguous, {"upernet_run": json.dumps(content)})


class SavedState:
    """A state that `save_state` wrote.

    Args:
        path: File to read.

    Raises:
        UpernetError: The file is not a saved state, or is that of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                content = json.loads((file.metadata() or {})["upernet_run"])
                self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.identity: Identity = content["identity"]
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise UpernetError(
                f"{path}: not the state of a training run; delete it to start anew ({error})."
            ) from error
        if not isinstance(self.identity, dict) or self.identity.get("format") != FORMAT:
            raise self._other_run()
        progress: dict[str, Any] = content["progress"]
        self.progress = Progress(
            position=Position(**progress["position"]),
            lengths=tuple(progress["lengths"]),
            planned=tuple(progress["planned"]),
            validations=[Validation(**values) for values in progress["validations"]],
            kept=progress["kept"],
            stale=progress["stale"],
            weights=progress["weights"],
            research_only=progress.get("research_only", False),  # older states do not say
            asked=progress.get("asked"),  # older states have none
        )
        self.average_updates: int = content["average_updates"]

    def check(self, identity: Identity, finished: bool = False) -> None:
        """Check that this is the state of the run with `identity`.

        Args:
            identity: Identity of the run that resumes it.
            finished: The run has no iteration left, so that `held_back` may change, to calibrate it again.

        Raises:
            UpernetError: It is another run.
        """
        if self.identity == identity:
            return
        same_shares = _held_back(self.identity) == _held_back(identity)
        if not finished or same_shares or _without_photos(self.identity) != _without_photos(identity):
            raise self._other_run()

    def _other_run(self) -> UpernetError:
        return UpernetError(
            f"{self.path.parent}: holds a run of another recipe, other data or another version of upernet; "
            "give another --out, or delete it."
        )

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


def _held_back(identity: Identity) -> list[float]:
    """Return the share that each source holds back; 0 for sources without photos of their own."""
    return [source.get("held_back", 0.0) for source in identity["recipe"]["sources"].values()]


def _without_photos(identity: Identity) -> Identity:
    """Return a copy of an identity without what holds photos back."""
    copy: Identity = json.loads(json.dumps(identity))
    del copy["photos"]
    for source in copy["recipe"]["sources"].values():
        source.pop("held_back", None)
    return copy
