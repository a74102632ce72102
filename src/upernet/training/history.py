"""What a run records: one record per iteration, and one per validation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from upernet.evaluation import EvaluationResult

METRICS = ("miou", "miou_with_background", "miou_given_object", "pixel_accuracy", "mean_accuracy", "top1", "top5")
"""Metrics of a level that a validation records. The first one that a level has is its main metric."""


class IterationRecord(TypedDict):
    """One line of `log.jsonl`.

    Attributes:
        iteration: Number of the iteration, from 1 over all stages.
        stage: Name of the stage.
        source: Name of the source.
        learning_rate: Learning rate of the decoder and heads.
        loss: Weighted sum of the losses.
        losses: Losses by name.
        seconds: Duration of the iteration, including the wait for its photos.
    """

    iteration: int
    stage: str
    source: str
    learning_rate: float
    loss: float
    losses: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Validation:
    """The scores of the model after an iteration.

    Attributes:
        iteration: Number of the iteration, from 1 over all stages.
        stage: Name of the stage.
        metrics: `LEVEL.METRIC` -> value in 0..1, in the order of the levels.
    """

    iteration: int
    stage: str
    metrics: dict[str, float]


def metrics_of(result: EvaluationResult) -> dict[str, float]:
    """Return the metrics of all levels as `LEVEL.METRIC` -> value, without those that could not be measured."""
    found: dict[str, float] = {}
    for level, metrics in result.levels.items():
        values: dict[str, Any] = metrics.to_dict()
        found |= {f"{level}.{name}": values[name] for name in METRICS if values.get(name) is not None}
    return found


def read_log(path: Path, last: int | None = None) -> list[IterationRecord]:
    """Return the records of a log, without lines that a killed process left unfinished.

    Args:
        path: The log; it may be missing.
        last: Last iteration to return. None: all.
    """
    records: list[IterationRecord] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record: IterationRecord = json.loads(line)
                if last is None or record["iteration"] <= last:
                    records.append(record)
            except (ValueError, KeyError, TypeError):
                continue
    return records
