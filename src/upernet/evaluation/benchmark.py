"""The benchmark of Unified Perceptual Parsing: the metrics of the paper, beside the published row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from upernet.evaluation.report import readable_metric
from upernet.evaluation.results import EvaluationResult
from upernet.files import write_text
from upernet.taxonomy import Taxonomy, load_taxonomy

METRICS: dict[str, tuple[str, ...]] = {
    "object": ("miou", "pixel_accuracy"),
    "part": ("miou", "pixel_accuracy"),
    "scene": ("top1",),
    "material": ("miou", "pixel_accuracy"),
    "texture": ("top1",),
}
"""Level -> its metrics, in the order of the paper's table (arXiv 1807.10221, section 4)."""
PAPER = "paper, ResNet-50"
TABLE, SCORES = "benchmark.md", "benchmark.json"

Row = Mapping[str, Mapping[str, float | None]]
"""Level -> metric -> score in 0..1."""

PUBLISHED: Row = {
    "object": {"miou": 0.2336, "pixel_accuracy": 0.7709},
    "part": {"miou": 0.2875, "pixel_accuracy": 0.4692},
    "scene": {"top1": 0.7087},
    "material": {"miou": 0.5419, "pixel_accuracy": 0.8445},
    "texture": {"top1": 0.3510},
}
"""Scores of the paper's model that learned all tasks. The mIoU of parts is the one without "no part" ("mIoU-bg")."""


def is_benchmark(taxonomy: Taxonomy) -> bool:
    """Return whether the classes of all levels are those of Broden+, so that the published row is of the same kind."""
    broden = load_taxonomy("broden").levels
    return all(name in broden and level.names == broden[name].names for name, level in taxonomy.levels.items())


def benchmark_row(result: EvaluationResult) -> Row:
    """Return the paper's metrics of the levels that were scored."""
    found = {level: metrics.to_dict() for level, metrics in result.levels.items() if level in METRICS}
    return {level: {name: values[name] for name in METRICS[level] if name in values} for level, values in found.items()}


def benchmark_table(rows: Mapping[str, Row]) -> str:
    """Return a Markdown table with a line per metric and a column per row, aligned for terminals, in percent."""
    names = [*rows]
    lines = [["", *names]]
    for level, metrics in METRICS.items():
        for metric in metrics:
            scores = [row.get(level, {}).get(metric) for row in rows.values()]
            if any(score is not None for name, score in zip(names, scores, strict=True) if name != PAPER):
                lines.append([readable_metric(f"{level}.{metric}"), *map(_percent, scores)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    rule = ["-" * widths[0], *("-" * (max(width, 2) - 1) + ":" for width in widths[1:])]
    padded = (
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (lines[0], rule, *lines[1:])
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def describe_scores(result: EvaluationResult) -> str:
    """Return the conditions of the scores of models with the classes of Broden+, as sentences."""
    counts = ", ".join(f"{count:,} photos of {source}" for source, count in result.photos.items())
    rules = " by the rules of the released code" if result.rules == "published" else ""
    text = f"Scores in percent{rules} on split {result.split}: {counts}."
    if result.split == "train":
        text += " Models that were trained on these photos score better than they are."
    return f"{text} The published row is of the released validation split of Broden+."


def write_benchmark(folder: str | Path, name: str, result: EvaluationResult) -> None:
    """Write the benchmark of a model to a folder: `benchmark.md` and `benchmark.json`.

    Raises:
        UpernetError: A file cannot be written.
    """
    rows = {name: benchmark_row(result), PAPER: PUBLISHED}
    about = {"split": result.split, "photos": result.photos, "metrics": result.rules, "rows": rows}
    write_text(Path(folder) / SCORES, json.dumps(about, indent=2, allow_nan=False) + "\n")
    write_text(Path(folder) / TABLE, f"{benchmark_table(rows)}\n{describe_scores(result)}\n")


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f}"
