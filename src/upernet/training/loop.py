"""The training loop: stages of iterations, each on one source, resumable at any checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from upernet.checkpoints import (
    initialize_model,
    load_backbone_weights,
    save_checkpoint,
    shipped_checkpoint,
)
from upernet.data.drawing import Schedule, batches
from upernet.data.sample import Batch
from upernet.data.sources import Source, SourceMissing, open_source
from upernet.errors import UpernetError
from upernet.evaluation.calibration import calibrate
from upernet.models import UPerNet, build_model
from upernet.recipe import Recipe, StageSpec, TrainingSpec
from upernet.training.distributed import World, join_world, leave_world, synchronize_batch_norms
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
        UpernetError: the recipe cannot be trained, a source's folder is missing, labels do not fit, or a loss is not
            finite.
    """
    if recipe.training is None or not recipe.sources:
        raise UpernetError(f"recipe {recipe.name} has no training section; it describes a model only.")
    world = join_world(device)
    try:
        run = _Run(recipe, recipe.training, Path(data_dir), Path(out_dir), world, initialize_from, quiet, say)
        return run.train(half)
    finally:
        leave_world()


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
        self.quiet = quiet or not world.is_main
        self.say: Say = say if world.is_main else lambda text: None
        self.recipe_text = recipe.model_dump_json(exclude={"description", "calibration", "parse_short_side"})
        self.state_path = out_dir / "state.safetensors"
        self.model_path = out_dir / "model.safetensors"

        torch.manual_seed(training.seed)
        model = build_model(recipe, pretrained=recipe.model.backbone_weights == "timm")
        self.model: UPerNet = model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = MovingAverage(self.model, training.ema_decay) if training.ema_decay else None
        self.saved: SavedState | None = None
        self.position = Position()
        if self.state_path.is_file():
            self.saved = SavedState(self.state_path, self.recipe_text)
            self.position = self.saved.position
            self.saved.restore_model(self.model, self.average)
            self.say(f"Going on with stage {self.position.stage + 1} after iteration {self.position.iteration}.")
        else:
            self._initialize(initialize_from or training.initialize_from)
        if world.size > 1:
            synchronize_batch_norms(self.model)
        self.losses = LevelLosses(self.model.taxonomy, recipe.loss, world.device)
        for stage in training.stages:
            self._open_sources(stage)  # a folder that is missing is better known before the first stage than after it

    def train(self, half: bool) -> Path:
        stages = self.training.stages
        total = sum(stage.iterations for stage in stages)
        done = sum(stage.iterations for stage in stages[: self.position.stage]) + self.position.iteration
        self.out_dir.mkdir(parents=True, exist_ok=True)
        folder = self.out_dir if self.world.is_main else self.out_dir / f"rank{self.world.rank}"
        folder.mkdir(exist_ok=True)
        with RunLog(folder, total, done, self.quiet) as log:
            while self.position.stage < len(stages):
                self._train_stage(stages[self.position.stage], done - self.position.iteration, log)
                done += stages[self.position.stage].iterations - self.position.iteration
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

    def _train_stage(self, stage: StageSpec, done_before: int, log: RunLog) -> None:
        select_trained(self.model, stage)
        optimizer = create_optimizer(self.model, stage)
        if self.saved is not None:
            self.saved.restore_optimizer(self.model, optimizer)
            self.saved = None
        network: nn.Module = self.model
        if self.world.size > 1:
            network = DistributedDataParallel(self.model, find_unused_parameters=True, broadcast_buffers=False)
        self.losses = LevelLosses(self.model.taxonomy, stage.loss or self.recipe.loss, self.world.device)
        sources = self._open_sources(stage)
        stage_seed = self.training.seed + 1_000_003 * self.position.stage
        schedule = Schedule(
            stage_seed,
            {name: (len(source), source.spec.weight, source.spec.batch_size) for name, source in sources.items()},
        )
        stream = batches(
            sources,
            schedule,
            self.position.iteration,
            stage.iterations,
            self.training.workers,
            self.world.rank,
            self.world.size,
        )
        set_modes(self.model, stage)
        start = time.perf_counter()
        for iteration, batch in enumerate(stream, self.position.iteration):
            torch.manual_seed(stage_seed + 7 * iteration + self.world.rank)
            rate = learning_rate(stage, iteration)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            values = self._step(network, optimizer, batch, stage)
            if self.average is not None:
                self.average.update(self.model)
            now = time.perf_counter()
            if self.world.is_main:
                log.write(
                    {
                        "iteration": done_before + iteration + 1,
                        "stage": stage.name,
                        "source": batch.source,
                        "learning_rate": rate,
                        "loss": sum(value * self.losses.weight(name, batch.weak) for name, value in values.items()),
                        "losses": values,
                        "seconds": round(now - start, 3),
                    }
                )
            start = now
            if (iteration + 1) % self.training.checkpoint_every == 0 and iteration + 1 < stage.iterations:
                self._save(optimizer, Position(self.position.stage, iteration + 1))
        if self.average is not None:
            self.model.load_state_dict(self.average.state)

    def _step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, stage: StageSpec
    ) -> dict[str, float]:
        """One update; returns each loss, averaged over all processes' labels."""
        batch = batch.to(self.world.device)
        images = self.model.preprocess(batch.images).contiguous(memory_format=torch.channels_last)
        levels = [level for level in self.model.levels if level in batch.maps or level in batch.labels]
        if stage.trains == "texture":
            levels = ["texture"]
        autocast = torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.training.precision == "bf16")
        with autocast:
            logits = network(images, levels)
        ratios = self.losses(logits, batch, self.recipe.sources[batch.source].supervision)
        # divided by the labels of all processes; DDP averages the gradients over processes, hence the factor
        total: Tensor | None = None
        values: dict[str, float] = {}
        for name, ratio in ratios.items():
            denominator = self.world.sum(ratio.denominator)
            loss = ratio.numerator / denominator.clamp(min=1e-6)
            values[name] = float(self.world.sum(loss))
            weighted = loss * self.losses.weight(name, batch.weak) * self.world.size
            total = weighted if total is None else total + weighted
        bad = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
        if total is None or bad:
            raise UpernetError(
                f"the loss {', '.join(bad) or '(none)'} on source {batch.source} is not finite: "
                "lower the learning rate, or check the labels with `upernet data check`."
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.training.gradient_clipping)
        optimizer.step()
        return values

    def _save(self, optimizer: torch.optim.Optimizer | None, position: Position | None = None) -> None:
        if self.world.is_main:
            save_state(
                self.state_path, self.recipe_text, position or self.position, self.model, optimizer, self.average
            )

    def _initialize(self, checkpoint: str | Path | None) -> None:
        weights = self.recipe.model.backbone_weights
        if checkpoint is not None:
            path = shipped_checkpoint(str(checkpoint)) or Path(checkpoint)
            kept = [key for key in initialize_model(self.model, path) if not key.startswith("auxiliary.")]
            modules = sorted({key.rpartition(".")[0] for key in kept})
            self.say(f"Took weights from {path}; starting anew: {', '.join(modules) or 'nothing'}.")
        elif weights is not None and weights != "timm":
            load_backbone_weights(self.model.backbone, self.recipe.model.backbone, weights)
        if self.average is not None:
            self.average.state = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def _open_sources(self, stage: StageSpec) -> dict[str, Source]:
        sources = {}
        for name in stage.sources:
            spec = self.recipe.sources[name]
            spec = spec.model_copy(update={"augmentation": stage.augmentation.get(name, spec.augmentation)})
            try:
                sources[name] = open_source(name, spec, self.model.taxonomy, self.data_dir, "train")
            except SourceMissing as error:
                raise UpernetError(f"{error} Training needs every source of the recipe's stages.") from error
        return sources
