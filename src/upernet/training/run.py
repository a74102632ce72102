"""A training run: what it consists of, how it starts, and what it saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from upernet.distributed import World, synchronize_batch_norms, wait_for_all
from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult
from upernet.evaluation.report import readable_metric
from upernet.evaluation.subject import Subject
from upernet.recipe import Recipe, TrainingSpec
from upernet.training.initial import build_training_model, load_initial_weights
from upernet.training.interruption import StopRequest, exit_of
from upernet.training.live import LiveLine
from upernet.training.loggers import Logger, check_loggers, open_loggers
from upernet.training.logs import RunLog
from upernet.training.optimizer import MovingAverage, set_modes
from upernet.training.plan import Position, plan_lengths
from upernet.training.reporting import Reporter
from upernet.training.result import ResultWriter
from upernet.training.run_folder import LOG, REPORT, STATE, delete_events, write_run_recipe
from upernet.training.stages import Stage, open_stages
from upernet.training.state import Progress, SavedState, identify_run, save_state
from upernet.training.step import StageTrainer
from upernet.training.validation import best_so_far, create_validator, deciding_metric

Log = Callable[[str], None]
"""Function that prints one line."""


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
                self.log("Other photos are held back than in training: thresholds from photos trained on are too low.")

    def _plan(self, training: TrainingSpec, iterations: int | None) -> Progress:
        """Return how far the run is, with the lengths that its stages will have."""
        planned = tuple(stage.iterations for stage in training.stages)
        known = self.saved.progress if self.saved else Progress(Position(), planned, planned)
        lengths = plan_lengths(known.lengths, known.planned, planned, known.position, iterations, known.asked)
        stale = known.stale if lengths == known.lengths else 0
        asked = known.asked if iterations is None else iterations
        return replace(known, lengths=lengths, planned=planned, asked=asked, stale=stale)

    def start(self) -> None:
        """Load the saved state of the folder or, in a new run, the initial weights; synchronize the processes."""
        if self.saved is not None:
            self.saved.restore_model(self.model, self.average)
            self.log(self._describe_position())
        else:
            self._start_over()
            initial = load_initial_weights(self.model, self.recipe, self.initial, self.world, self.log)
            self.progress.weights, self.progress.research_only = initial
            if self.average is not None:
                self.average.restart(self.model)
            if self.validator is None and self.training.validation is not None:
                self.log("No validation, as no source has a split `val` or photos held back (`held_back: 0.1`).")
        self.result.start_from(self.progress.research_only)
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

    def open_log(self, quiet: bool) -> RunLog:
        """Open the log, the live line and the loggers."""
        done, settings = self.progress.done, self.recipe.model_dump(mode="json")
        live = LiveLine(self.progress.total, done, quiet)
        if best := best_so_far(self.progress, self.reporter.metric):
            live.validated(*best, best[1])
        return RunLog(self.folder, done, live, open_loggers(self.loggers, self.folder, settings, done))

    def validate(self, stage: Stage, trainer: StageTrainer, run_log: RunLog | None, stop: StopRequest) -> bool:
        """Score the model if it is time, and keep it if it is the best so far; return whether it was scored.

        Raises:
            KeyboardInterrupt, SystemExit: A signal arrived; the next run scores the model first.
        """
        if self.validator is None or not self.validator.is_due(self.progress):
            return False
        if not self.state_path.is_file():
            self.save(trainer)  # a model without a state beside it would be somebody else's

        def look_for_signals() -> None:
            if stop.signal is not None and self.world.size == 1:  # several processes score to the end together
                raise _SignalArrived

        try:
            with self.average.applied(self.model) if self.average else nullcontext():
                result = self.validator.score(self.model, str(self.world.device), look_for_signals)
                if self.validator.record(self.progress, stage.spec.name, result):
                    self._keep_best(result, run_log)
        except _SignalArrived:
            self.stop_if_asked(trainer, stop)
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
        self.result.keep_best(result)
        if run_log is not None:
            subject = Subject(self.model, self.recipe, self.data_dir, self.world.device)
            pictures = self.reporter.draw_best(subject, result, self.progress.validations[-1])
            run_log.write_pictures(pictures, self.progress.done)

    def stop_if_asked(self, trainer: StageTrainer, stop: StopRequest) -> None:
        """Save the state and end the process if any process has received a signal."""
        number = stop.agreed()
        if number is not None:
            self.save(trainer)
            self.log(f"Stopped after iteration {self.progress.done}; the same command goes on.")
            raise exit_of(number)

    @property
    def is_exhausted(self) -> bool:
        """Whether the current stage ends early, because the scores have not improved for long enough."""
        at = self.progress.position
        is_over = at.iteration >= self.progress.lengths[at.stage]
        return not is_over and self.validator is not None and self.validator.is_exhausted(self.progress)

    def end_early(self, stage: Stage) -> None:
        """Give `stage` the length that it has now."""
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
        path = self.result.finish(has_best=self.progress.kept is not None, half=half)
        if best := best_so_far(self.progress, self.reporter.metric):
            name, value = best
            score = f"{readable_metric(name)} {value:.3f}"
            self.log(f"Its weights are those of iteration {self.progress.kept}, the best ones: {score}.")
        self.log(f"The report is {self.folder / REPORT}")
        return path

    def save(self, trainer: StageTrainer) -> None:
        """Write the state at the current position."""
        if self.world.is_main:
            optimizer = trainer.optimizer
            save_state(self.state_path, self.identity, self.progress, self.model, optimizer, self.average)


def _with_lengths(training: TrainingSpec, lengths: Sequence[int]) -> TrainingSpec:
    stages = [
        stage.model_copy(update={"iterations": length}) for stage, length in zip(training.stages, lengths, strict=True)
    ]
    return training.model_copy(update={"stages": tuple(stages)})
