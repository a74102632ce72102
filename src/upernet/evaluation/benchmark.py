"""The benchmark of Unified Perceptual Parsing: the metrics of the paper for any model, beside the published row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from upernet.evaluation.report import readable_metric
from upernet.evaluation.results import EvaluationResult
from upernet.files import write_text
from upernet.recipe import Recipe
from upernet.taxonomy import Taxonomy, load_taxonomy

METRICS: dict[str, tuple[str, ...]] = {
    "object": ("miou", "pixel_accuracy"),
    "part": ("miou", "pixel_accuracy"),
    "scene": ("top1",),
    "material": ("miou", "pixel_accuracy"),
    "texture": ("top1",),
}
"""Level -> its metrics, in the order of the paper's table (arXiv 1807.10221, section 4)."""
SUBSTITUTES = ("miou", "pixel_accuracy", "top1")
"""Metrics of a level whose photos are annotated in another way than the paper's: materials as image labels, for
instance."""
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


def published_row(taxonomy: Taxonomy) -> Row:
    """Return the published scores of the levels whose classes are those of Broden+; empty if there are none.

    Parts have the classes of Broden+ only if the same objects own them.
    """
    broden = load_taxonomy("broden")
    same = {
        name
        for name, level in broden.levels.items()
        if name in taxonomy.levels and taxonomy.levels[name].names == level.names
    }
    if "object" not in same or taxonomy.part_groups != broden.part_groups:
        same.discard("part")
    return {level: scores for level, scores in PUBLISHED.items() if level in same}


def is_benchmark(recipe: Recipe) -> bool:
    """Return whether the table says more than the metrics per level: it joins levels, or has a published row."""
    taxonomy = recipe.load_taxonomy()
    return len(taxonomy.levels) > 1 or bool(published_row(taxonomy))


def benchmark_rows(results: Mapping[str, EvaluationResult], recipe: Recipe) -> dict[str, Row]:
    """Return the metrics of each model, by name, and last the published row, if it is of any of the same classes.

    Args:
        results: Name of a model -> its scores.
        recipe: Recipe with the classes of all of them.
    """
    published = published_row(recipe.load_taxonomy())
    rows = {name: _row(result) for name, result in results.items()}
    return {**rows, PAPER: published} if published else rows


def benchmark_table(rows: Mapping[str, Row]) -> str:
    """Return a Markdown table with a line per metric and a column per row, aligned for terminals, in percent."""
    lines = [
        ["", *rows],
        *([readable_metric(f"{level}.{metric}"), *scores] for level, metric, scores in metric_lines(rows)),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (max(width, 2) - 1) + ":" for width in widths[1:])]
    padded = (
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (lines[0], rule, *lines[1:])
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def metric_lines(rows: Mapping[str, Row]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each level and metric that was measured in any of `rows`, and the scores of all of them in percent."""
    for level in dict.fromkeys([*METRICS, *(level for row in rows.values() for level in row)]):
        for metric in SUBSTITUTES:
            scores = {name: row.get(level, {}).get(metric) for name, row in rows.items()}
            if any(score is not None for name, score in scores.items() if name != PAPER):
                percent = ["-" if score is None else f"{100 * score:.2f}" for score in scores.values()]
                yield level, metric, percent


def describe_scores(result: EvaluationResult, recipe: Recipe) -> str:
    """Return the conditions of the scores, and how they compare with the published ones, as sentences."""
    counts = ", ".join(
        f"{count:,} photos of {source}" for source, count in result.photos.items() if recipe.sources[source].scored
    )
    rules = " by the rules of the released code" if result.rules == "published" else ""
    text = f"Scores in percent{rules} on split {result.split}: {counts}."
    if result.split == "train":
        text += " Models that were trained on these photos score better than they are."
    return f"{text} {_compare_with_paper(result, published_row(recipe.load_taxonomy()))}"


def write_benchmark(folder: str | Path, result: EvaluationResult, recipe: Recipe) -> None:
    """Write the benchmark of the model of `recipe` to a folder: `benchmark.md` and `benchmark.json`.

    Raises:
        UpernetError: A file cannot be written.
    """
    rows = benchmark_rows({recipe.name: result}, recipe)
    about = {"split": result.split, "photos": result.photos, "metrics": result.rules, "rows": rows}
    write_text(Path(folder) / SCORES, json.dumps(about, indent=2, allow_nan=False) + "\n")
    write_text(Path(folder) / TABLE, f"{benchmark_table(rows)}\n{describe_scores(result, recipe)}\n")


def _row(result: EvaluationResult) -> Row:
    """Return the paper's metrics of the levels that were scored, and the substitutes of a level that has none."""
    row: dict[str, dict[str, float | None]] = {}
    for level, metrics in result.levels.items():
        values = metrics.to_dict()
        wanted = METRICS.get(level, ())
        chosen = wanted if any(name in values for name in wanted) else SUBSTITUTES
        row[level] = {name: values[name] for name in chosen if name in values}
    return row


def _compare_with_paper(result: EvaluationResult, published: Row) -> str:
    others = [level for level in result.levels if level not in published]
    if not published:
        return (
            "They cannot be compared with the scores of the paper on Unified Perceptual Parsing, which are of other "
            "classes and other photos."
        )
    text = "The published row is of the released validation split of Broden+."
    return f"{text} It does not apply to {' and '.join(others)}, whose classes are others." if others else text
