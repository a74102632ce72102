"""Ablations of the recipe `everyday`: short runs that differ in one choice, scored on held-back photos.

    python -m benchmarks.ablations --data DIR --json OUT [--iterations 600] [--photos 60] [NAME...]

The choices are in benchmarks/ablations.yaml. OUT is written after each run; runs that it has are not repeated, so that
an interrupted command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from upernet.checkpoints import load_checkpoint
from upernet.evaluation import EvaluationResult, evaluate
from upernet.files import write_text
from upernet.overrides import override
from upernet.recipe import CalibrationSpec, Recipe, load_recipe
from upernet.training import train

CHOICES = Path(__file__).with_name("ablations.yaml")
METRICS = {"object": "miou", "part": "miou", "scene": "top1", "material": "top1"}
"""Level -> the metric that is reported."""


def short_recipe(name: str, changes: dict[str, Any], iterations: int) -> Recipe:
    """Return a recipe with `changes` whose stages other than that of textures take `iterations` in all."""
    recipe = override(load_recipe(name), [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    assert recipe.training is not None
    stages = [stage for stage in recipe.training.stages if stage.trains == "all"]
    planned = sum(stage.iterations for stage in stages)
    short = tuple(
        stage.model_copy(update={"iterations": max(1, round(stage.iterations * iterations / planned))})
        for stage in stages
    )
    training = recipe.training.model_copy(update={"stages": short, "validation": None})
    return recipe.model_copy(update={"training": training, "calibration": CalibrationSpec()})


def scores(result: EvaluationResult) -> dict[str, float]:
    """Return `source.level.metric` -> value for the sources that count, and the mean over them as `mean`."""
    found: dict[str, float] = {}
    for source, levels in result.sources.items():
        for level, metrics in levels.items():
            value = metrics.to_dict().get(METRICS.get(level, ""))
            if value is not None:
                found[f"{source}.{level}.{METRICS[level]}"] = round(value, 4)
    return {"mean": round(sum(found.values()) / len(found), 4), **found}


def run(recipe: Recipe, data: Path, photos: int) -> dict[str, Any]:
    """Train, score on held-back photos, and return scores and seconds of training."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model, _ = load_checkpoint(train(recipe, data, folder, quiet=True, loggers=(), log=lambda line: None))
    seconds = time.perf_counter() - start
    scored = {name: source for name, source in recipe.sources.items() if source.scored and source.level != "texture"}
    held_back = recipe.model_copy(update={"sources": scored})
    return {"scores": scores(evaluate(model, held_back, data, "held_back", photos=photos)), "seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="choices to run; default: all")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--recipe", default="everyday")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--photos", type=int, default=60, help="held-back photos per source")
    arguments = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(arguments.json.read_text()) if arguments.json.is_file() else []
    choices = yaml.safe_load(CHOICES.read_text(encoding="utf-8"))
    for choice in choices["runs"]:
        name, changes = choice["name"], choices["common"] | choice["changes"]
        if (arguments.names and name not in arguments.names) or any(entry["name"] == name for entry in done):
            continue
        iterations = arguments.iterations * choice.get("iterations", 1)
        result = run(short_recipe(arguments.recipe, changes, iterations), arguments.data, arguments.photos)
        done.append({**choice, "iterations": iterations, **result})
        write_text(arguments.json, json.dumps(done, indent=2) + "\n")
        print(f"{name:<40} {result['scores']['mean']:.3f}  {result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
