"""The training loop: stages of iterations, each on one source, resumable at any checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from upernet.checkpoints import (
    initialize_model,
    load_backbone_weights,
    published_checkpoint,
    save_checkpoint,
)
from upernet.data.drawing import Schedule, TrainingSet, batches
from upernet.data.sample import Batch
from upernet.data.sources import Source, SourceMissing, open_source
from upernet.distributed import (
    World,
    join_world,
    leave_world,
    sum_over_processes,
    synchronize_batch_norms,
    wait_for_all,
)
from upernet.errors import UpernetError
from upernet.evaluation.calibration import calibrate, check_calibration
from upernet.models import UPerNet, build_model
from upernet.recipe import Recipe, StageSpec, TrainingSpec
from upernet.training.logs import RunLog
from upernet.training.losses import LevelLosses
from upernet.training.optimizer import MovingAverage, create_optimizer, learning_rate, select_trained, set_modes
from upernet.training.state import Position, SavedState, save_state

Say = Callable[[str], None]


def train(
    recipe: Recipe,
    data_dir: str | Path,
    out_dir: str | Path,
    *,
    device: str | None = None,
    initialize_from: str | Path | None = None,
    half: bool = False,
    quiet: bool = False,
    say: Say = print,
) -> Path:
    """Train the model of `recipe` on the data below `data_dir`; returns the path of `out_dir/model.safetensors`.

    `out_dir` holds `state.safetensors` (written every `checkpoint_every` iterations), `log.jsonl`, `tensorboard/`
    and, at the end, `model.safetensors` (with `half`, its matrices as float16). If it holds the state of an unfinished
    run of the same recipe, that run goes on; on a CPU its losses are then those of an uninterrupted run, bit for bit.
    Under `torchrun` all processes share each batch.

    Raises:
        UpernetError: the recipe cannot be trained, a source's folder is missing, labels do not fit, a loss or gradient
            is not finite, or `out_dir` is in use or holds another run.
    """
    if recipe.training is None or not recipe.sources:
        raise UpernetError(f"recipe {recipe.name} has no training section; it describes a model only.")
    world = join_world(device)
    try:
        run = _Run(recipe, recipe.training, Path(data_dir), Path(out_dir), world, initialize_from, quiet, say)
        with _lock(run.out_dir) if world.is_main else nullcontext():
            return run.train(half)
    finally:
        leave_world()


@dataclass(frozen=True)
class _Stage:
    """A stage with what it needs, opened before the first stage starts: mistakes show at once, not after hours."""

    spec: StageSpec
    sources: dict[str, Source]
    schedule: Schedule
    losses: LevelLosses
    seed: int


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        training: TrainingSpec,
        data_dir: Path,
        out_dir: Path,
        world: World,
        initialize_from: str | Path | None,
        quiet: bool,
        say: Say,
    ):
        self.recipe, self.training, self.data_dir, self.out_dir, self.world = recipe, training, data_dir, out_dir, world
        self.quiet = quiet
        self.say: Say = say if world.is_main else lambda text: None
        self.initial = initialize_from or training.initialize_from
        self.state_path = out_dir / "state.safetensors"
        self.model_path = out_dir / "model.safetensors"

        torch.manual_seed(training.seed)
        fresh = not self.state_path.is_file()
        from_hub = fresh and self.initial is None and recipe.model.backbone_weights == "timm"
        model = build_model(recipe, pretrained=from_hub)
        if training.gradient_checkpointing:
            model.backbone.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
        self.model: UPerNet = model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stages = [self._open_stage(number, stage) for number, stage in enumerate(training.stages)]
        check_calibration(self.model.taxonomy, recipe)
        self.average = MovingAverage(self.model, training.ema_decay) if training.ema_decay else None
        self.saved: SavedState | None = None
        self.position = Position()

    def train(self, half: bool) -> Path:
        self._start()
        total = sum(stage.spec.iterations for stage in self.stages)
        done = sum(stage.spec.iterations for stage in self.stages[: self.position.stage]) + self.position.iteration
        with RunLog(self.out_dir, total, done, self.quiet) if self.world.is_main else nullcontext() as log:
            while self.position.stage < len(self.stages):
                stage = self.stages[self.position.stage]
                self._train_stage(stage, done - self.position.iteration, log)
                done += stage.spec.iterations - self.position.iteration
                self.position = Position(self.position.stage + 1, 0)
                self._save(None)
        self.model.eval()
        card = {
            "name": self.recipe.name,
            "description": self.recipe.description,
            "short_side": self.recipe.parse_short_side,
        }
        if self.recipe.calibration.precision:
            card["thresholds"] = calibrate(self.model, self.recipe, self.data_dir, device=str(self.world.device))
        if self.world.is_main:
            save_checkpoint(self.model_path, self.model, card, half)
        self.say(f"Wrote {self.model_path}")
        return self.model_path

    def _start(self) -> None:
        """Weights to start from: those of the run in the folder, of a checkpoint, or of ImageNet."""
        weights = self.recipe.model.backbone_weights
        if self.state_path.is_file():
            self.saved = SavedState(self.state_path, self._identity())
            self.position = self.saved.position
            self.saved.restore_model(self.model, self.average)
            self.say(f"Going on with stage {self.position.stage + 1} after iteration {self.position.iteration}.")
        elif self.model_path.is_file() or (self.out_dir / "log.jsonl").is_file():
            raise UpernetError(f"{self.out_dir}: holds a run without its state; give another --out, or delete it.")
        elif self.initial is not None:
            path = published_checkpoint(str(self.initial)) or Path(self.initial)
            kept = [key for key in initialize_model(self.model, path) if not key.startswith("auxiliary.")]
            modules = sorted({key.rpartition(".")[0] for key in kept})
            self.say(f"Took weights from {path}; starting anew: {', '.join(modules) or 'nothing'}.")
        elif weights is not None and weights != "timm":
            load_backbone_weights(self.model.backbone, self.recipe.model.backbone, weights)
        if self.average is not None and self.saved is None:
            self.average.restart(self.model)
        if self.world.size > 1:
            synchronize_batch_norms(self.model)
        wait_for_all()  # the main process writes to the folder from here on; all others have looked into it by now

    def _train_stage(self, stage: _Stage, done_before: int, log: RunLog | None) -> None:
        select_trained(self.model, stage.spec)
        optimizer = create_optimizer(self.model, stage.spec)
        if self.saved is not None:
            self.saved.restore_optimizer(self.model, optimizer)
            self.saved = None
        network: nn.Module = self.model
        if self.world.size > 1:
            network = DistributedDataParallel(self.model, find_unused_parameters=True, broadcast_buffers=False)
        stream = batches(
            stage.sources,
            stage.schedule,
            self.position.iteration,
            stage.spec.iterations,
            self.training.workers,
            self.world.rank,
            self.world.size,
        )
        set_modes(self.model, stage.spec)
        start = time.perf_counter()
        for iteration, batch in enumerate(stream, self.position.iteration):
            torch.manual_seed(stage.seed + 7 * iteration + self.world.rank)
            rate = learning_rate(stage.spec, iteration)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            values = self._step(network, optimizer, batch, stage)
            if self.average is not None:
                self.average.update(self.model)
            now = time.perf_counter()
            if log is not None:
                log.write(
                    {
                        "iteration": done_before + iteration + 1,
                        "stage": stage.spec.name,
                        "source": batch.source,
                        "learning_rate": rate,
                        "loss": sum(value * stage.losses.weight(name, batch.weak) for name, value in values.items()),
                        "losses": values,
                        "seconds": round(now - start, 3),
                    }
                )
            start = now
            if (iteration + 1) % self.training.checkpoint_every == 0 and iteration + 1 < stage.spec.iterations:
                self._save(optimizer, Position(self.position.stage, iteration + 1))
        if self.average is not None:
            self.model.load_state_dict(self.average.state)

    def _step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, stage: _Stage
    ) -> dict[str, float]:
        """One update; returns each loss, over all processes' labels. A batch without a label changes nothing."""
        batch = batch.to(self.world.device)
        images = self.model.preprocess(batch.images).contiguous(memory_format=torch.channels_last)
        levels = [level for level in self.model.levels if level in batch.maps or level in batch.labels]
        if stage.spec.trains != "all":
            levels = [stage.spec.trains]
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"):
            logits = network(images, levels)
        ratios = stage.losses(logits, batch, self.recipe.sources[batch.source].supervision)

        # All processes reduce the same vector, whichever losses their share of the batch has.
        nothing = images.new_zeros(())
        parts = [
            [ratios[name].numerator, ratios[name].denominator] if name in ratios else [nothing] * 2
            for name in stage.losses.names
        ]
        stacked = torch.stack([torch.stack(pair) for pair in parts]).detach()
        sum_over_processes(stacked)
        sums = stacked.tolist()
        values = {name: a / b for name, (a, b) in zip(stage.losses.names, sums, strict=True) if b > 0}
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise UpernetError(self._diverged(f"the loss {', '.join(bad)}", batch.source))
        if not values:
            return values
        # DDP averages gradients over processes, hence the factor; every output takes part, or DDP would wait for it.
        total = 0 * torch.stack([value.float().sum() for value in logits.values()]).sum()
        for name, (_, denominator) in zip(stage.losses.names, sums, strict=True):
            if name in ratios and denominator > 0:
                weight = stage.losses.weight(name, batch.weak) * self.world.size / denominator
                total = total + weight * ratios[name].numerator
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.training.gradient_clipping or math.inf)
        if not math.isfinite(norm):
            raise UpernetError(self._diverged("the gradient", batch.source))
        optimizer.step()
        return values

    def _diverged(self, what: str, source: str) -> str:
        return (
            f"{what} on source {source} is not finite: lower the learning rate, or check the labels with "
            "`upernet data check`; the last saved state is whole."
        )

    def _save(self, optimizer: torch.optim.Optimizer | None, position: Position | None = None) -> None:
        if self.world.is_main:
            identity = self._identity()
            save_state(self.state_path, identity, position or self.position, self.model, optimizer, self.average)

    def _open_stage(self, number: int, stage: StageSpec) -> _Stage:
        taxonomy = self.model.taxonomy
        sources: dict[str, Source] = {}
        for name in stage.sources:
            spec = self.recipe.sources[name]
            spec = spec.model_copy(update={"augmentation": stage.augmentation.get(name, spec.augmentation)})
            try:
                sources[name] = open_source(name, spec, taxonomy, self.data_dir, "train")
            except SourceMissing as error:
                raise UpernetError(f"{error} Training needs every source of the recipe's stages.") from error
            if stage.trains != "all" and stage.trains not in sources[name].levels:
                raise UpernetError(
                    f"stage {stage.name} trains {stage.trains}, and source {name} has none; take it out."
                )
            if spec.batch_size < 2 and stage.trains == "all" and stage.freeze_norm != "all":
                raise UpernetError(
                    f"sources.{name}.batch_size: batch norms need 2 photos or more; or set freeze_norm: all."
                )
        seed = self.training.seed + 1_000_003 * number
        weights = stage.sources if isinstance(stage.sources, dict) else {}
        draws = {
            name: (len(source), weights.get(name, source.spec.weight), source.spec.batch_size)
            for name, source in sources.items()
        }
        schedule = Schedule(seed, draws)
        TrainingSet(sources, schedule, self.world.rank, self.world.size)
        select_trained(self.model, stage)
        return _Stage(
            stage, sources, schedule, LevelLosses(taxonomy, stage.loss or self.recipe.loss, self.world.device), seed
        )

    def _identity(self) -> str:
        """Everything that decides what the next iteration does; a state is only resumed by the run that wrote it."""
        recipe = self.recipe.model_dump(
            mode="json",
            exclude={
                "name": True,
                "description": True,
                "taxonomy": True,
                "calibration": True,
                "parse_short_side": True,
                "sources": {"__all__": {"scored", "test_resize"}},
                "training": {"workers", "checkpoint_every", "gradient_checkpointing"},
            },
        )
        photos = {name: len(source) for stage in self.stages for name, source in stage.sources.items()}
        taxonomy = self.model.taxonomy.to_dict()
        content = {"recipe": recipe, "taxonomy": taxonomy, "photos": photos, "initial": str(self.initial)}
        return json.dumps(content, sort_keys=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One run at a time in a folder; what a killed run left half-written is removed."""
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
