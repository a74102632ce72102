"""The learning-rate range test: which learning rate suits the first stage of a recipe (Smith, arXiv 1506.01186)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from upernet.data.sampling import batches
from upernet.distributed import join_world, leave_world
from upernet.errors import UpernetError
from upernet.files import atomic_path, write_text
from upernet.recipe import Recipe
from upernet.training.available import training_of
from upernet.training.charts import Line, Point, draw_chart, smoothed
from upernet.training.initial import build_training_model, load_initial_weights
from upernet.training.live import LiveLine
from upernet.training.stages import open_stages
from upernet.training.step import Diverged, StageTrainer

RANGE = (1e-6, 1.0)
"""First and last learning rate."""
ITERATIONS = 100
SMOOTHING = 0.9
"""Weight of the earlier iterations in the smoothed loss."""
TOO_HIGH = 3.0
"""The test ends when the smoothed loss has grown to this many times its smallest value."""


def find_learning_rate(
    recipe: Recipe,
    data_dir: str | Path,
    out_dir: str | Path,
    *,
    device: str | None = None,
    initialize_from: str | Path | None = None,
    iterations: int = ITERATIONS,
    quiet: bool = False,
    log: Callable[[str], None] = print,
) -> float:
    """Train a new model while the learning rate grows, and suggest the rate at which the loss falls fastest.

    `lr.csv` and `lr.png` are written to `out_dir`; a run there is left alone, and the model is thrown away.

    Args:
        recipe: Recipe with a `training` section; its first stage is tested.
        data_dir: Folder that contains the folders of the sources.
        out_dir: Folder for the two files.
        device: Device in torch's notation; None: a GPU if there is one.
        initialize_from: See `upernet.train`.
        iterations: Largest number of iterations.
        quiet: Show no progress.
        log: Called by the main process with lines for the user.

    Returns:
        The suggested learning rate.

    Raises:
        UpernetError: The recipe cannot be trained, or no learning rate lowers the loss.
    """
    training = training_of(recipe)
    world = join_world(device)
    try:
        say: Callable[[str], None] = log if world.is_main else lambda line: None
        training = training.model_copy(update={"stages": training.stages[:1]})
        model = build_training_model(recipe, training, world)
        (stage,) = open_stages(recipe, training, model, Path(data_dir), world)
        load_initial_weights(model, recipe, initialize_from or training.initialize_from, world, say)
        trainer = StageTrainer(model, stage, training, world)
        live = LiveLine(iterations, 0, quiet or not world.is_main)
        losses: list[Point] = []
        first: dict[str, float] = {}
        stream = batches(
            {**stage.partners, **stage.sources}, stage.sampler, 0, iterations, training.workers, world.rank, world.size
        )
        live.start()
        for iteration, batch in enumerate(stream):
            rate = RANGE[0] * (RANGE[1] / RANGE[0]) ** (iteration / max(1, iterations - 1))
            try:
                result = trainer.step(batch, iteration, rate)
            except Diverged:
                break
            if result.total > 0:
                # The losses of sources differ in size, so each counts relative to the first one of its source.
                losses.append((rate, result.total / first.setdefault(batch.source, result.total)))
                live.show(iteration + 1, rate, result.total)
            curve = [loss for _, loss in smoothed(losses, SMOOTHING)]
            if len(curve) > iterations // 4 and curve[-1] > TOO_HIGH * min(curve):
                break
        live.stop()
        curve = smoothed(losses, SMOOTHING)
        rate, loss = suggest(curve)
        if world.is_main:
            _write(Path(out_dir), losses, curve, (rate, loss))
            own = training.stages[0].by_optimizer.get(stage.spec.optimizer)
            where = f"by_optimizer.{stage.spec.optimizer}." if own and own.learning_rate is not None else ""
            key = f"training.stages.0.{where}learning_rate"
            say(f"Suggested learning rate: {rate:.1e} (the recipe has {stage.spec.learning_rate:.1e}).")
            say(f"Use it with --set {key}={rate:.1e}; the curve is in {Path(out_dir) / 'lr.png'}.")
        return rate
    finally:
        leave_world()


def suggest(curve: Sequence[Point]) -> Point:
    """Return the learning rate and the loss where a smoothed curve falls fastest per decade, before its minimum.

    Args:
        curve: Learning rates in ascending order, and smoothed losses.

    Raises:
        UpernetError: The loss does not fall.
    """
    lowest = min(range(len(curve)), key=lambda index: curve[index][1], default=0)
    window = max(1, len(curve) // 20)
    slopes = [
        (_slope(curve[max(0, index - window)], curve[min(lowest, index + window)]), index) for index in range(1, lowest)
    ]
    slope, index = min(slopes, default=(0.0, 0))
    if slope >= 0:
        raise UpernetError("no learning rate lowers the loss; check the labels with `upernet data check`.")
    return curve[index]


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / (math.log10(b[0]) - math.log10(a[0])) if b[0] > a[0] else 0.0


def _write(folder: Path, losses: Sequence[Point], curve: Sequence[Point], suggestion: Point) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["learning_rate", "relative_loss", "smoothed"])
    writer.writerows(
        [f"{rate:.6g}", f"{loss:.6g}", f"{smooth:.6g}"] for (rate, loss), (_, smooth) in zip(losses, curve, strict=True)
    )
    write_text(folder / "lr.csv", text.getvalue())
    # Above the loss of the first iterations, nothing is of interest, and the end of the curve would flatten the rest.
    ceiling = 1.5 * max(loss for _, loss in curve[: max(1, len(curve) // 4)])
    shown = [(rate, min(loss, ceiling)) for rate, loss in curve]
    chart = draw_chart("Loss by learning rate; the ring is the suggestion", [Line("loss relative to the first", shown)],
                       log_x=True, marked=suggestion)  # fmt: skip
    with atomic_path(folder / "lr.png") as temporary:
        chart.save(temporary)
