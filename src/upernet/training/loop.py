"""The training loop: stages of iterations, each iteration on one source, resumable from any saved state."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from upernet.data.sampling import batches
from upernet.distributed import World, join_world, leave_world, synchronize_batch_norms, wait_for_all
from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult
from upernet.evaluation.subject import Subject
from upernet.recipe import Recipe, TrainingSpec
from upernet.training.initial import build_training_model, load_initial_weights
from upernet.training.interruption import StopRequest, exit_of
from upernet.training.live import LiveLine
from upernet.training.loggers import Logger, check_loggers, open_loggers
from upernet.training.logs import RunLog
from upernet.training.optimizer import MovingAverage, learning_rate, set_modes
from upernet.training.plan import Position, plan_lengths
from upernet.training.reporting import Reporter
from upernet.training.result import ResultWriter
from upernet.training.run_folder import LOG, STATE, delete_events, delete_run, lock_folder, write_run_recipe
from upernet.training.stages import Stage, open_stages
from upernet.training.state import Progress, SavedState, identify_run, save_state
from upernet.training.step import StageTrainer
from upernet.training.validation import best_so_far, create_validator, deciding_metric

Log = Callable[[str], None]
"""Function that prints one line."""


def train(
    recipe: Recipe,
    data_dir: str | Path,
    out_dir: str | Path,
    *,
    device: str | None = None,
    initialize_from: str | Path | None = None,
    iterations: int | None = None,
    half: bool = False,
    loggers: Sequence[str | Logger] | None = None,
    start_over: bool = False,
    quiet: bool = False,
    log: Log = print,
) -> Path:
    """Train the model of a recipe, or resume its training.

    `out_dir` receives `state.safetensors` (every `checkpoint_every` iterations, after each validation and each stage,
    and when the run is interrupted), `log.jsonl`, `tensorboard/` and the model. If it contains the state of an
    unfinished run of the same recipe, that run is resumed; on a CPU, its losses are then those of an uninterrupted run,
    bit for bit.

    With validation, `model.safetensors` is the best model so far, and `last.safetensors` the last one; without, there
    is only `model.safetensors`, the last one.

    The first SIGINT (Ctrl-C) or SIGTERM ends the run after the current iteration, with its state saved. Under
    `torchrun`, all processes share each batch.

    Args:
        recipe: Recipe with a `training` section and sources.
        data_dir: Folder that contains the folders of the sources.
        out_dir: Folder of the run.
        device: Device in torch's notation; None: a GPU if there is one.
        initialize_from: Checkpoint or name of a published model to start from, instead of the recipe's
            `training.initialize_from`.
        iterations: Number of iterations of all stages. The iterations that are left are scaled to that; those of a
            finished run are added to the last stage. None: as the recipe says, or as the run was started.
        half: Store the matrices of the final model as float16.
        loggers: Names of adapters (`tensorboard`, `wandb`, `mlflow`, `trackio`), or own loggers; see `Logger`. None: as
            the recipe says, or TensorBoard, if it is installed.
        start_over: Delete an earlier run in the folder instead of going on with it.
        quiet: Show no progress.
        log: Called by the main process with lines for the user.

    Returns:
        The path of `model.safetensors`.

    Raises:
        UpernetError: The recipe cannot be trained, the device is unavailable, a source is missing, labels do not fit, a
            loss or gradient is not finite, or `out_dir` is in use or contains another run.
        KeyboardInterrupt, SystemExit: The run was stopped by SIGINT or SIGTERM.
    """
    if recipe.training is None or not recipe.sources:
        raise UpernetError(
            f"recipe {recipe.name} has no training section or no sources, so that it cannot be trained; add them."
        )
    world = join_world(device)
    try:
        if start_over:
            delete_run(Path(out_dir), world)
        folders = Path(data_dir), Path(out_dir)
        run = Run(recipe, recipe.training, *folders, world, initialize_from, iterations, loggers, log)
        with lock_folder(run.folder) if world.is_main else nullcontext():
            run.start()
            run.write_recipe()
            run.train_stages(quiet)
            return run.finish(half)
    finally:
        leave_world()


class _SignalArrived(Exception):  # noqa: N818 (what has happened)
    """A signal arrived while the model was scored."""


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
        iterations: int | None,
        loggers: Sequence[str | Logger] | None,
        log: Log,
    ) -> None:
        self.recipe, self.data_dir, self.folder, self.world = recipe, data_dir, folder, world
        self.loggers = training.loggers if loggers is None else loggers
        check_loggers(self.loggers)
        self.initial = initialize_from or training.initialize_from
        self.log: Log = log if world.is_main else lambda line: None
        self.state_path = folder / STATE
        self.saved = SavedState(self.state_path) if self.state_path.is_file() else None
        self.progress = self._plan(training, iterations)
        self.training = _with_lengths(training, self.progress.lengths)
        self.model = build_training_model(recipe, training, world)
        self.average = MovingAverage(self.model, training.ema_decay) if training.ema_decay else None
        self.stages = open_stages(recipe, self.training, self.model, data_dir, world)
        self.validator = create_validator(recipe, self.model.taxonomy, data_dir)
        self.result = ResultWriter(folder, recipe, data_dir, self.model, world, self.log)
        self.result.check()
        self.reporter = Reporter(folder, training.validation.metric if training.validation else None)
        photos = {name: len(source) for stage in self.stages for name, source in stage.sources.items()}
        self.identity = identify_run(recipe, self.model.taxonomy, photos, str(self.initial))
        if self.saved is not None:
            self.saved.check(self.identity, finished=self.progress.done == self.progress.total)
            if self.saved.identity != self.identity:
                self.log("Other photos are held back than in training; thresholds from photos that the model was")
                self.log("trained on are too low.")

    def _plan(self, training: TrainingSpec, iterations: int | None) -> Progress:
        """Return how far the run is, with the lengths that its stages will have."""
        planned = tuple(stage.iterations for stage in training.stages)
        known = self.saved.progress if self.saved else Progress(Position(), planned, planned)
        lengths = plan_lengths(known.lengths, known.planned, planned, known.position, iterations)
        stale = known.stale if lengths == known.lengths else 0
        return replace(known, lengths=lengths, planned=planned, stale=stale)

    def start(self) -> None:
        """Load the saved state of the folder or, in a new run, the initial weights; synchronize the processes."""
        if self.saved is not None:
            self.saved.restore_model(self.model, self.average)
            self.log(self._describe_position())
        else:
            self._start_over()
            self.progress.weights = load_initial_weights(self.model, self.recipe, self.initial, self.world, self.log)
            if self.average is not None:
                self.average.restart(self.model)
        if self.world.size > 1:
            synchronize_batch_norms(self.model)
        # The main process writes to the folder after this; by then, all processes have looked for a state there.
        wait_for_all()

    def write_recipe(self) -> None:
        """Write the recipe and the taxonomy as they are trained, for `evaluate` and `parse` without the originals."""
        if self.world.is_main:
            write_run_recipe(self.folder, self.recipe, self.training, self.model.taxonomy, self.data_dir)

    def _start_over(self) -> None:
        """Remove the records of a run that was stopped before its first saved state.

        Raises:
            UpernetError: There is a model, which may be somebody's only copy.
        """
        if self.result.path.is_file():
            raise UpernetError(f"{self.folder}: holds a model without the state of its run; give another --out.")
        if (self.folder / LOG).is_file() and self.world.is_main:
            self.log(f"{self.folder}: an earlier run stopped before it saved a state; this one starts over.")
            delete_events(self.folder)
            (self.folder / LOG).unlink()

    def _describe_position(self) -> str:
        done, total = self.progress.done, self.progress.total
        if done == total:
            return f"The run has done its {total} iterations; --iterations with a larger number goes on."
        stage = self.stages[self.progress.position.stage].spec.name
        return f"Going on after iteration {done} of {total} (stage {stage})."

    def train_stages(self, quiet: bool) -> None:
        """Train from the current position to the end of the last stage.

        Raises:
            KeyboardInterrupt, SystemExit: A signal stopped the run; its state is saved.
        """
        with (
            self._open_log(quiet) if self.world.is_main else nullcontext() as run_log,
            StopRequest(quiet or not self.world.is_main) as stop,
        ):
            for stage in self.stages[self.progress.position.stage :]:
                if stage.number > self.progress.position.stage:
                    self.progress.position, self.progress.stale = Position(stage.number), 0
                self._train_stage(stage, run_log, stop)

    def _open_log(self, quiet: bool) -> RunLog:
        done, settings = self.progress.done, self.recipe.model_dump(mode="json")
        live = LiveLine(self.progress.total, done, quiet)
        if best := best_so_far(self.progress, self.reporter.metric):
            live.validated(*best, best[1])
        return RunLog(self.folder, done, live, open_loggers(self.loggers, self.folder, settings, done))

    def _train_stage(self, stage: Stage, run_log: RunLog | None, stop: StopRequest) -> None:
        """Train from the current position to the end of `stage`; the model then has the averaged weights, if any."""
        trainer = StageTrainer(self.model, stage, self.training, self.world)
        if self.saved is not None:
            self.saved.restore_optimizer(self.model, trainer.optimizer)
            self.saved = None
        first, last = self.progress.position.iteration, stage.spec.iterations
        self._validate(stage, trainer, run_log, stop)
        workers, world = self.training.workers if first < last else 0, self.world
        stream = batches(stage.sources, stage.sampler, first, last, workers, world.rank, world.size)
        start = time.perf_counter()
        for iteration, batch in enumerate(stream, first):
            rate = learning_rate(stage.spec, iteration)
            result = trainer.step(batch, iteration, rate)
            if self.average is not None:
                self.average.update(self.model)
            self.progress.position = Position(stage.number, iteration + 1)
            now = time.perf_counter()
            if run_log is not None:
                run_log.write(
                    {
                        "iteration": self.progress.done,
                        "stage": stage.spec.name,
                        "source": batch.source,
                        "learning_rate": rate,
                        "loss": result.total,
                        "losses": result.losses,
                        "seconds": round(now - start, 3),
                    }
                )
            self._stop_if_asked(trainer, stop)
            validated = self._validate(stage, trainer, run_log, stop)
            if self.validator and self.validator.is_exhausted(self.progress):
                self._end_early(stage)
                break
            if validated or (iteration + 1) % self.training.checkpoint_every == 0:
                self._save(trainer)
            start = time.perf_counter()
        self._save(trainer)
        if self.average is not None:
            self.model.load_state_dict(self.average.state)

    def _validate(self, stage: Stage, trainer: StageTrainer, run_log: RunLog | None, stop: StopRequest) -> bool:
        """Score the model if it is time, and keep it if it is the best so far; return whether it was scored.

        Raises:
            KeyboardInterrupt, SystemExit: A signal arrived; the next run scores the model first.
        """
        if self.validator is None or not self.validator.is_due(self.progress):
            return False
        if not self.state_path.is_file():
            self._save(trainer)  # a model without a state beside it would be somebody else's

        def look_for_signals() -> None:
            if stop.signal is not None and self.world.size == 1:  # several processes score to the end together
                raise _SignalArrived

        try:
            with self.average.applied(self.model) if self.average else nullcontext():
                result = self.validator.score(self.model, str(self.world.device), look_for_signals)
                if self.validator.record(self.progress, stage.spec.name, result):
                    self._keep_best(result, run_log)
        except _SignalArrived:
            self._stop_if_asked(trainer, stop)
        set_modes(self.model, stage.spec)
        if run_log is not None:
            validation, metric = self.progress.validations[-1], self.validator.spec.metric
            deciding, best = deciding_metric(validation, metric), best_so_far(self.progress, metric)
            assert deciding is not None and best is not None
            run_log.write_validation(validation, deciding, best[1])
            run_log.write_pictures({"curves": self.reporter.update(self.progress)}, self.progress.done)
        return True

    def _keep_best(self, result: EvaluationResult, run_log: RunLog | None) -> None:
        """Write the current weights, and pictures of what they get right and wrong."""
        self.result.keep_best()
        if run_log is not None:
            subject = Subject(self.model, self.recipe, self.data_dir, self.world.device)
            pictures = self.reporter.draw_best(subject, result, self.progress.validations[-1])
            run_log.write_pictures(pictures, self.progress.done)

    def _stop_if_asked(self, trainer: StageTrainer, stop: StopRequest) -> None:
        """Save the state and end the process if any process has received a signal."""
        number = stop.agreed()
        if number is not None:
            self._save(trainer)
            self.log(f"Stopped after iteration {self.progress.done}; the same command goes on.")
            raise exit_of(number)

    def _end_early(self, stage: Stage) -> None:
        lengths = list(self.progress.lengths)
        lengths[stage.number] = self.progress.position.iteration
        self.progress.lengths = tuple(lengths)
        self.log(
            f"Stage {stage.spec.name} ends after iteration {self.progress.done}: "
            f"{self.progress.stale} validations in a row were no better than the best."
        )

    def finish(self, half: bool) -> Path:
        """Write the report and the models, and calibrate thresholds, if the recipe asks for them."""
        if self.world.is_main:
            self.reporter.update(self.progress)
        return self.result.finish(has_best=self.progress.kept is not None, half=half)

    def _save(self, trainer: StageTrainer) -> None:
        """Write the state at the current position."""
        if self.world.is_main:
            optimizer = trainer.optimizer
            save_state(self.state_path, self.identity, self.progress, self.model, optimizer, self.average)


def _with_lengths(training: TrainingSpec, lengths: Sequence[int]) -> TrainingSpec:
    stages = [
        stage.model_copy(update={"iterations": length}) for stage, length in zip(training.stages, lengths, strict=True)
    ]
    return training.model_copy(update={"stages": tuple(stages)})
