"""Texture heads side by side: the paper's (on C2 alone) and heads that also see deeper features.

    python -m benchmarks.texture_heads --data DIR [--json OUT]

Each head is trained by the texture stage of the recipe `everyday`, on the frozen backbone of the shipped model, and
scored on the test photos.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from upernet.checkpoints import load_checkpoint
from upernet.evaluation import evaluate
from upernet.files import write_text
from upernet.recipe import CalibrationSpec, Recipe, load_recipe
from upernet.training import train

HEADS = (("C2",), ("C2", "C3"), ("C2", "C3", "C4"))


def texture_recipe(features: tuple[str, ...]) -> Recipe:
    """`everyday`, cut down to its texture source and stage, with the head on `features`."""
    recipe = load_recipe("everyday")
    assert recipe.training is not None
    texture = recipe.model.texture.model_copy(update={"features": features})
    stages = tuple(stage for stage in recipe.training.stages if stage.trains == "texture")
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"texture": texture}),
            "sources": {"dtd10": recipe.sources["dtd10"]},
            "training": recipe.training.model_copy(update={"stages": stages, "initialize_from": "everyday"}),
            "calibration": CalibrationSpec(),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    print(f"{'texture head on':<16} {'top-1':>6} {'parameters':>11}")
    for features in HEADS:
        recipe = texture_recipe(features)
        with tempfile.TemporaryDirectory() as folder:
            model, _ = load_checkpoint(train(recipe, arguments.data, folder, quiet=True, log=lambda line: None))
        score = evaluate(model, recipe, arguments.data)["texture"]["top1"]
        parameters = sum(parameter.numel() for parameter in model.heads["texture"].parameters())
        results["+".join(features)] = {"top1": score, "parameters": parameters}
        print(f"{'+'.join(features):<16} {score:>6.3f} {parameters:>11,}", flush=True)
    if arguments.json:
        write_text(arguments.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
