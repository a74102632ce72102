"""Tests of upernet.evaluation.benchmark: the metrics of the paper, and where the published row applies."""

from __future__ import annotations

import json
from pathlib import Path

from upernet.evaluation import EvaluationResult, LabelMetrics, LevelMetrics, PartMetrics, PixelMetrics
from upernet.evaluation import TestTimeAugmentation as Testing
from upernet.evaluation.benchmark import (
    PAPER,
    PUBLISHED,
    benchmark_rows,
    benchmark_table,
    describe_scores,
    is_benchmark,
    published_row,
    write_benchmark,
)
from upernet.recipe import Recipe, load_recipe, without_other_levels
from upernet.taxonomy import Taxonomy, load_taxonomy

BRODEN = load_taxonomy("broden")


def pixels(miou: float, accuracy: float) -> LevelMetrics:
    metrics = PixelMetrics(miou=miou, pixel_accuracy=accuracy, mean_accuracy=0.9, classes_absent=(), per_class={})
    return LevelMetrics(pixels=metrics)


def labels(top1: float) -> LevelMetrics:
    return LevelMetrics(labels=LabelMetrics(top1=top1, top5=0.9, per_class={}))


def parts(miou: float | None, accuracy: float) -> LevelMetrics:
    means = {"miou": miou, "pixel_accuracy": accuracy, "mean_accuracy": 0.9, "miou_given_object": 0.9}
    metrics = PartMetrics(**means, miou_with_background=0.9, classes_absent=(), per_object={}, per_class={})
    return LevelMetrics(parts=metrics)


def result(levels: dict[str, LevelMetrics], photos: dict[str, int]) -> EvaluationResult:
    return EvaluationResult(levels, {}, {}, "test", photos, (), Testing())


EVERYDAY = result(
    {
        "scene": labels(0.5),
        "object": pixels(0.25, 0.75),
        "part": parts(None, 0.125),
        "material": labels(0.625),
        "texture": LevelMetrics(pixels(0.1, 0.2).pixels, labels(0.375).labels),
    },
    {"nyu40": 1200, "caltech_objects": 7},
)
OBJECTS = result({"object": pixels(0.5, 1.0)}, {"scenes_and_objects": 3})


def with_levels(name: str, *levels: str) -> Recipe:
    return without_other_levels(load_recipe(name).model_copy(update={"levels": levels}))


def test_a_model_of_other_classes_is_not_compared_with_the_paper() -> None:
    recipe = load_recipe("everyday")
    assert benchmark_table(benchmark_rows({"everyday": EVERYDAY}, recipe)) == (
        "|                       | everyday |\n"
        "| --------------------- | -------: |\n"
        "| object mIoU           |    25.00 |\n"
        "| object pixel accuracy |    75.00 |\n"
        "| part pixel accuracy   |    12.50 |\n"
        "| scene top-1           |    50.00 |\n"
        "| material top-1        |    62.50 |\n"
        "| texture top-1         |    37.50 |\n"
    )
    assert describe_scores(EVERYDAY, recipe) == (
        "Scores in percent on split test: 1,200 photos of nyu40. They cannot be compared with the scores of the paper "
        "on Unified Perceptual Parsing, which are of other classes and other photos."
    )


def test_the_published_row_is_of_the_levels_with_the_same_classes() -> None:
    values = BRODEN.to_dict()
    assert published_row(BRODEN) == PUBLISHED
    values["levels"]["scene"]["classes"] = values["levels"]["scene"]["classes"][:-1]
    assert [*published_row(Taxonomy.from_dict(values))] == ["object", "part", "material", "texture"]
    values["levels"]["part"]["of"]["car"].remove("door")  # other objects have doors, too
    assert [*published_row(Taxonomy.from_dict(values))] == ["object", "material", "texture"]
    assert published_row(load_taxonomy("everyday")) == {}

    recipe = with_levels("upp_resnet50_broden", "object")
    assert benchmark_rows({"mine": OBJECTS}, recipe)[PAPER] == {"object": PUBLISHED["object"]}
    assert describe_scores(OBJECTS, recipe).endswith(
        "The published row is of the released validation split of Broden+."
    )


def test_levels_without_a_published_score_are_named(tmp_path: Path) -> None:
    values = BRODEN.subset(["scene", "object"]).to_dict()
    values["levels"]["scene"]["classes"] = values["levels"]["scene"]["classes"][:-1]
    (tmp_path / "mine.yaml").write_text(json.dumps(values))
    recipe = with_levels("upp_resnet50_broden", "scene", "object")
    recipe = recipe.model_copy(update={"taxonomy": str(tmp_path / "mine.yaml")})
    both = result({"scene": labels(0.5), **OBJECTS.levels}, {"scenes_and_objects": 3})
    assert describe_scores(both, recipe).endswith("It does not apply to scene, whose classes are others.")
    write_benchmark(tmp_path, both, recipe)
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert rows[recipe.name]["scene"] == {"top1": 0.5} and [*rows[PAPER]] == ["object"]
    assert (
        "| scene top-1           |               50.00 |                - |" in (tmp_path / "benchmark.md").read_text()
    )


def test_a_single_level_of_other_classes_is_no_benchmark() -> None:
    assert is_benchmark(load_recipe("everyday")) and is_benchmark(with_levels("upp_resnet50_broden", "object"))
    assert not is_benchmark(load_recipe("camvid"))
