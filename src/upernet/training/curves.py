"""The curves of a run: loss per source, learning rate, and scores."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from upernet.evaluation.report import readable_metric
from upernet.training.charts import Line, Point, draw_chart, smoothed, stack, thinned
from upernet.training.history import METRICS, IterationRecord, Validation

MOST_LINES = 8
"""Lines in a chart; further sources or levels would not be told apart."""


def draw_curves(
    records: Sequence[IterationRecord], validations: Sequence[Validation], metric: str, kept: int | None
) -> Image.Image:
    """Draw the smoothed loss of each source, the learning rate and the main metric of each level.

    Args:
        records: The log.
        validations: The scores; with none, their chart is left out.
        metric: The metric that decides which model is the best.
        kept: Iteration of the best model.
    """
    losses: dict[str, list[Point]] = {}
    for record in records:
        if record["losses"]:
            losses.setdefault(record["source"], []).append((record["iteration"], record["loss"]))
    weight = 1 - 1 / max(1.0, min(50.0, len(records) / 20))
    lines = [Line(name, thinned(smoothed(points, weight))) for name, points in losses.items()]
    rates = thinned([(record["iteration"], record["learning_rate"]) for record in records])
    end = float(records[-1]["iteration"]) if records else None
    charts = [
        draw_chart("Training loss, smoothed", lines[:MOST_LINES], last_x=end),
        draw_chart("Learning rate", [Line("decoder and heads", rates)], last_x=end),
    ]
    if validations:
        best = next((value.metrics.get(metric) for value in validations if value.iteration == kept), None)
        marked = None if kept is None or best is None else (float(kept), best)
        heading = "Validation; the ring is the best model" if marked else "Validation"
        charts.append(draw_chart(heading, _score_lines(validations, metric), last_x=end, marked=marked))
    return stack(charts)


def _score_lines(validations: Sequence[Validation], metric: str) -> list[Line]:
    """Return a line for the metric that decides, one for its level's pixel accuracy, and one for each other level."""
    names = list(dict.fromkeys(name for validation in validations for name in validation.metrics))
    level = metric.partition(".")[0]
    chosen = [metric, f"{level}.pixel_accuracy"]
    others = [other for other in dict.fromkeys(name.partition(".")[0] for name in names) if other != level]
    chosen += [next(f"{other}.{kind}" for kind in METRICS if f"{other}.{kind}" in names) for other in others]
    shown = [name for name in dict.fromkeys(chosen) if name in names][:MOST_LINES]
    points = {name: [(v.iteration, v.metrics[name]) for v in validations if name in v.metrics] for name in shown}
    return [Line(readable_metric(name), points[name], dots=True) for name in shown]
