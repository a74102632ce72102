"""The training loop: stages of iterations, each iteration on one source, resumable from any saved state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from upernet.data.sampling import batches
from upernet.distributed import join_world, leave_world
from upernet.ops.runtime.heap import kept_heap
from upernet.recipe import Recipe
from upernet.training.available import training_of
from upernet.training.interruption import StopRequest, exit_of
from upernet.training.loggers import Logger
from upernet.training.logs import RunLog
from upernet.training.optimizer import learning_rate
from upernet.training.plan import Position
from upernet.training.run import Log, Run
from upernet.training.run_folder import delete_run, lock_folder
from upernet.training.stages import Stage
from upernet.training.step import StageTrainer


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
    training = training_of(recipe)
    world = join_world(device)
    try:
        if start_over:
            delete_run(Path(out_dir), world)
        folders = Path(data_dir), Path(out_dir)
        run = Run(recipe, training, *folders, world, initialize_from, iterations, loggers, log)
        with lock_folder(run.folder) if world.is_main else nullcontext():
            run.start()
            run.write_recipe()
            _train_stages(run, quiet)
            return run.finish(half)
    finally:
        leave_world()


def _train_stages(run: Run, quiet: bool) -> None:
    """Train from the current position to the end of the last stage.

    Raises:
        KeyboardInterrupt, SystemExit: A signal stopped the run; its state is saved.
    """
    with (
        kept_heap(),
        run.open_log(quiet) if run.world.is_main else nullcontext() as run_log,
        StopRequest(quiet or not run.world.is_main) as stop,
    ):
        for stage in run.stages[run.progress.position.stage :]:
            if stage.number > run.progress.position.stage:
                run.progress.position, run.progress.stale = Position(stage.number), 0
                if stage.spec.trains != run.stages[stage.number - 1].spec.trains:
                    run.progress.kept = None  # models without what this stage trains are not finished
            _train_stage(run, stage, run_log, stop)
        if (number := stop.agreed()) is not None:
            run.log(f"Stopped after iteration {run.progress.done}; the same command goes on.")
            raise exit_of(number)


def _train_stage(run: Run, stage: Stage, run_log: RunLog | None, stop: StopRequest) -> None:
    """Train from the current position to the end of `stage`; the model then has the averaged weights, if any."""
    trainer = StageTrainer(run.model, stage, run.training, run.world)
    if run.saved is not None:
        run.saved.restore_optimizer(run.model, trainer.optimizer)
        run.saved = None
    run.validate(stage, trainer, run_log, stop)  # where the run was stopped before it
    if run.is_exhausted:
        run.end_early(stage)
    first, last = run.progress.position.iteration, run.progress.lengths[stage.number]
    workers, world = run.training.workers if first < last else 0, run.world
    stream = batches({**stage.partners, **stage.sources}, stage.sampler, first, last, workers, world.rank, world.size)
    start = time.perf_counter()
    for iteration, batch in enumerate(stream, first):
        rate = learning_rate(stage.spec, iteration)
        result = trainer.step(batch, iteration, rate)
        if run.average is not None:
            run.average.update(run.model)
        run.progress.position = Position(stage.number, iteration + 1)
        now = time.perf_counter()
        if run_log is not None:
            run_log.write(
                {
                    "iteration": run.progress.done,
                    "stage": stage.spec.name,
                    "source": batch.source,
                    "learning_rate": rate,
                    "loss": result.total,
                    "losses": result.losses,
                    "seconds": round(now - start, 3),
                }
            )
        run.stop_if_asked(trainer, stop)
        validated = run.validate(stage, trainer, run_log, stop)
        if run.is_exhausted:
            run.end_early(stage)
            break
        if validated or (iteration + 1) % run.training.checkpoint_every == 0:
            run.save(trainer)
        start = time.perf_counter()
    run.save(trainer)
    if run.average is not None:
        run.model.load_state_dict(run.average.state)
