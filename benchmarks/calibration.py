"""What calibration does on test photos: reliability before and after the temperatures, and thresholds per class.

    python -m benchmarks.calibration --data DIR [--recipe NAME] [--model NAME] [--json OUT] [--image OUT]

Temperatures and thresholds are those of the model's card; `--calibrate` finds them anew on the photos that are held
back. The thresholds of the levels alone are compared with those of the classes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from upernet.checkpoints import ModelCard, find_checkpoint, load_checkpoint
from upernet.evaluation.calibration import Calibration, calibrate
from upernet.evaluation.confidences import UNCHANGED, Confidences, count_confidences
from upernet.evaluation.figures import draw_reliability
from upernet.evaluation.results import ReliabilityBin
from upernet.evaluation.thresholds import calibration_error, reliability, share_shown, temperature_index
from upernet.files import atomic_path, write_text
from upernet.inference.fonts import sized_font
from upernet.recipe import load_recipe

COUNTS = 1_000_000
"""What all predictions of a diagram add up to."""


def measure(found: Confidences, card: ModelCard | Calibration, level: str) -> dict[str, object]:
    """Return the figures of one level: calibration errors, and what is shown and right with either thresholds."""
    temperature = card.temperatures.get(level, 1.0)
    index = temperature_index(temperature)
    names, whole = found.level.names, card.thresholds.get(level, 0.0)
    own = card.class_thresholds.get(level, {})
    by_level = torch.full((len(names),), whole, dtype=torch.float64)
    by_class = torch.tensor([own.get(name, whole) for name in names], dtype=torch.float64)
    mixture, labeled = found.mixture()[index], found.labeled()[index]
    classes: dict[str, object] = {}
    for label, name in enumerate(names):
        if mixture[label].any():
            one = slice(label, label + 1)
            before, after = (share_shown(mixture[one], thresholds[one]) for thresholds in (by_level, by_class))
            classes[name] = {
                "threshold": own.get(name, whole),
                "precision": {"level": _rounded(before[1]), "class": _rounded(after[1])},
                "shown": {"level": _rounded(before[0]), "class": _rounded(after[0])},
            }
    return {
        "temperature": _rounded(temperature),
        "ece": {
            "before": _rounded(calibration_error(found.labeled()[UNCHANGED].sum(0))),
            "after": _rounded(calibration_error(labeled.sum(0))),
        },
        "thresholds": {
            kind: {
                "shown": _rounded(share_shown(labeled, thresholds)[0]),
                "precision": _rounded(share_shown(labeled, thresholds)[1]),
                "precision_with_negatives": _rounded(share_shown(mixture, thresholds)[1]),
            }
            for kind, thresholds in (("level", by_level), ("class", by_class))
        },
        "classes": classes,
    }


def draw(counted: dict[str, Confidences], card: ModelCard | Calibration) -> Image.Image:
    """Draw the reliability diagrams: a column per level, before the temperatures above, after them below."""
    columns: list[list[Image.Image]] = []
    for level, found in counted.items():
        temperature = card.temperatures.get(level, 1.0)
        index = temperature_index(temperature)
        titles = (f"{level}, as trained", f"{level}, temperature {temperature:.2f}")
        columns.append(
            [_diagram(found.labeled()[i].sum(0), title) for i, title in zip((UNCHANGED, index), titles, strict=True)]
        )
    width, height = columns[0][0].size
    picture = Image.new("RGB", (width * len(columns), 2 * height), "white")
    for x, column in enumerate(columns):
        for y, diagram in enumerate(column):
            picture.paste(diagram, (x * width, y * height))
    return picture


def _diagram(weights: Tensor, title: str) -> Image.Image:
    bins: list[ReliabilityBin] = []
    for total, confidence, right in zip(*reliability(weights), strict=True):
        count = round(COUNTS * float(total / weights.sum()))
        means = (float(confidence / total), float(right / total)) if count else (None, None)
        bins.append(ReliabilityBin(confidence=means[0], accuracy=means[1], count=count))
    diagram = draw_reliability(bins, calibration_error(weights))
    pen = ImageDraw.Draw(diagram)
    pen.rectangle((0, 0, diagram.width, 50), fill=diagram.getpixel((2, 2)))
    pen.text((24, 24), title, (30, 30, 30), sized_font(20))
    return diagram


def _rounded(value: float) -> float:
    return round(value, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="everyday")
    parser.add_argument("--model", help="weights, if they are not those of the recipe")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--image", type=Path)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    model, card = load_checkpoint(find_checkpoint(arguments.model or arguments.recipe))
    used = calibrate(model, recipe, arguments.data) if arguments.calibrate else card
    levels = [level for level in model.taxonomy.levels if level in used.thresholds]
    counted = count_confidences(model, recipe, arguments.data, "test", levels)
    counted = {level: found for level, found in counted.items() if found.has_labels}
    results = {level: measure(found, used, level) for level, found in counted.items()}
    print(f"{'level':<10} {'T':>5} {'ECE':>15} {'shown':>15} {'precision':>15} {'with negatives':>15}")
    for level, result in results.items():
        print(f"{level:<10}", _row(result), flush=True)
    if arguments.json:
        write_text(arguments.json, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    if arguments.image:
        with atomic_path(arguments.image) as path:
            draw(counted, used).save(path, "PNG", optimize=True)


def _row(result: dict[str, object]) -> str:
    ece, kinds = result["ece"], result["thresholds"]
    assert isinstance(ece, dict) and isinstance(kinds, dict)
    pairs = [(ece["before"], ece["after"])]
    pairs += [(kinds["level"][key], kinds["class"][key]) for key in ("shown", "precision", "precision_with_negatives")]
    return f"{result['temperature']:>5.2f} " + " ".join(f"{a:>6.3f} > {b:.3f}".rjust(15) for a, b in pairs)


if __name__ == "__main__":
    main()
