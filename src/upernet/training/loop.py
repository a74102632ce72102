"""The training loop: stages of iterations, each iteration on one source, resumable from any saved state."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from upernet.checkpoints import (
    card_of,
    find_checkpoint,
    initialize_model,
    load_backbone_weights,
    save_checkpoint,
)
from upernet.data.sampling import batches
from upernet.distributed import World, join_world, leave_world, synchronize_batch_norms, wait_for_all
from upernet.errors import UpernetError
from upernet.evaluation.calibration import calibrate, check_calibration
from upernet.models import UPerNet, build_model
from upernet.recipe import Recipe, TrainingSpec
from upernet.training.logs import RunLog
from upernet.training.optimizer import MovingAverage
from upernet.training.stages import Stage, open_stages
from upernet.training.state import Position, SavedState, identify_run, lock_folder, save_state
from upernet.training.step import StageTrainer

Log = Callable[[str], None]
"""Function that prints one line."""


def train(
    recipe: Recipe,
    data_dir: str | Path,
    out_dir: str | Path,
    *,
    device: str | None = None,
    initialize_from: str | Path | None = None,
    half: bool = False,
    quiet: bool = False,
    log: Log = print,
) -> Path:
    """Train the model of a recipe, or resume its training.

    `out_dir` receives `state.safetensors` (every `checkpoint_every` iterations and after each stage), `log.jsonl`,
    `tensorboard/` and, at the end, `model.safetensors`. If it contains the state of an unfinished run of the same
    recipe, that run is resumed; on a CPU, its losses are then those of an uninterrupted run, bit for bit.

    Under `torchrun`, all processes share each batch.

    Args:
        recipe: Recipe with a `training` section and sources.
        data_dir: Folder that contains the folders of the sources.
        out_dir: Folder of the run.
        device: Device in torch's notation; None: a GPU if there is one.
        initialize_from: Checkpoint or name of a published model to start from, instead of the recipe's
            `training.initialize_from`.
        half: Store the matrices of the final model as float16.
        quiet: Show no progress bar.
        log: Called by the main process with lines for the user.

    Returns:
        The path of `model.safetensors`.

    Raises:
        UpernetError: The recipe cannot be trained, the device is unavailable, a source is missing, labels do not fit, a
            loss or gradient is not finite, or `out_dir` is in use or contains another run.
    """
    if recipe.training is None or not recipe.sources:
        raise UpernetError(
            f"recipe {recipe.name} has no training section or no sources, so that it cannot be trained; add them."
        )
    world = join_world(device)
    try:
        run = Run(recipe, recipe.training, Path(data_dir), Path(out_dir), world, initialize_from, log)
        with lock_folder(run.folder) if world.is_main else nullcontext():
            run.start()
            run.train_stages(quiet)
            return run.write_model(half)
    finally:
        leave_world()


class Run:
    """A training run: its model, its stages, and how far it is.

    Creating one opens all sources and checks all settings, and writes nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        training: TrainingSpec,
        data_dir: Path,
        folder: Path,
        world: World,
        initialize_from: str | Path | None,
        log: Log,
    ) -> None:
        self.recipe, self.training, self.data_dir, self.folder, self.world = recipe, training, data_dir, folder, world
        self.initial = initialize_from or training.initialize_from
        self.log: Log = log if world.is_main else lambda line: None
        self.state_path = folder / "state.safetensors"
        self.model_path = folder / "model.safetensors"
        self.model = self._build_model()
        self.average = MovingAverage(self.model, training.ema_decay) if training.ema_decay else None
        self.stages = open_stages(recipe, training, self.model, data_dir, world)
        check_calibration(self.model.taxonomy, recipe)
        photos = {name: len(source) for stage in self.stages for name, source in stage.sources.items()}
        self.identity = identify_run(recipe, self.model.taxonomy, photos, str(self.initial))
        self.position = Position()
        self.saved: SavedState | None = None

    def _build_model(self) -> UPerNet:
        torch.manual_seed(self.training.seed)
        fresh = self.initial is None and not self.state_path.is_file()
        model = build_model(self.recipe, pretrained=fresh and self.recipe.model.backbone_weights == "timm")
        if self.training.gradient_checkpointing:
            model.backbone.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
        return model.to(self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def start(self) -> None:
        """Load the saved state of the folder or, in a new run, the initial weights; synchronize the processes."""
        if self.state_path.is_file():
            self._load_state()
        elif self.model_path.is_file() or (self.folder / "log.jsonl").is_file():
            raise UpernetError(f"{self.folder}: holds a run without its state; give another --out, or delete it.")
        else:
            self._load_initial_weights()
        if self.world.size > 1:
            synchronize_batch_norms(self.model)
        # The main process writes to the folder after this; by then, all processes have looked for a state there.
        wait_for_all()

    def _load_state(self) -> None:
        self.saved = SavedState(self.state_path, self.identity)
        self.position = self.saved.position
        self.saved.restore_model(self.model, self.average)
        self.log(f"Resuming stage {self.position.stage + 1} after iteration {self.position.iteration}.")

    def _load_initial_weights(self) -> None:
        """Load the weights of a checkpoint, or ImageNet weights of the backbone (timm's came with the model)."""
        weights = self.recipe.model.backbone_weights
        if self.initial is not None:
            path = find_checkpoint(self.initial, backbones=True)
            kept = [key for key in initialize_model(self.model, path) if not key.startswith("auxiliary.")]
            modules = sorted({key.rpartition(".")[0] for key in kept})
            self.log(f"Loaded weights from {path}; newly initialized: {', '.join(modules) or 'nothing'}.")
        elif weights is not None and weights != "timm":
            load_backbone_weights(self.model.backbone, self.recipe.model.backbone, weights)
        if self.average is not None:
            self.average.restart(self.model)

    def train_stages(self, quiet: bool) -> None:
        """Train from the current position to the end of the last stage."""
        total = self._iterations_before(len(self.stages))
        done = self._iterations_before(self.position.stage) + self.position.iteration
        with RunLog(self.folder, total, done, quiet) if self.world.is_main else nullcontext() as run_log:
            for stage in self.stages[self.position.stage :]:
                self._train_stage(stage, run_log)
                self.position = Position(stage.number + 1, 0)
                self._save(None)

    def _train_stage(self, stage: Stage, run_log: RunLog | None) -> None:
        """Train from the current position to the end of `stage`; the model then has the averaged weights, if any."""
        trainer = StageTrainer(self.model, stage, self.training, self.world)
        if self.saved is not None:
            self.saved.restore_optimizer(self.model, trainer.optimizer)
            self.saved = None
        first, iterations = self.position.iteration, stage.spec.iterations
        workers, world = self.training.workers, self.world
        stream = batches(stage.sources, stage.sampler, first, iterations, workers, world.rank, world.size)
        start = time.perf_counter()
        for iteration, batch in enumerate(stream, first):
            result = trainer.step(batch, iteration)
            if self.average is not None:
                self.average.update(self.model)
            now = time.perf_counter()
            if run_log is not None:
                run_log.write(
                    {
                        "iteration": self._iterations_before(stage.number) + iteration + 1,
                        "stage": stage.spec.name,
                        "source": batch.source,
                        "learning_rate": result.learning_rate,
                        "loss": result.total,
                        "losses": result.losses,
                        "seconds": round(now - start, 3),
                    }
                )
            start = now
            self.position = Position(stage.number, iteration + 1)
            if (iteration + 1) % self.training.checkpoint_every == 0 and iteration + 1 < iterations:
                self._save(trainer.optimizer)
        if self.average is not None:
            self.model.load_state_dict(self.average.state)

    def write_model(self, half: bool) -> Path:
        """Calibrate the thresholds, if the recipe asks for it, and write the final model."""
        self.model.eval()
        card = card_of(self.recipe)
        if self.recipe.calibration.target_precision:
            thresholds = calibrate(self.model, self.recipe, self.data_dir, device=str(self.world.device))
            card = card.model_copy(update={"thresholds": thresholds})
        if self.world.is_main:
            save_checkpoint(self.model_path, self.model, card, half)
        self.log(f"Wrote {self.model_path}")
        return self.model_path

    def _iterations_before(self, stage: int) -> int:
        """Return the number of iterations of the stages before number `stage`."""
        return sum(earlier.spec.iterations for earlier in self.stages[:stage])

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Write the state at the current position; between stages, there is no optimizer."""
        if self.world.is_main:
            save_state(self.state_path, self.identity, self.position, self.model, optimizer, self.average)
