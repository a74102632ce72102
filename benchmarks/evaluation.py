"""`upernet.evaluate` on photos with 150 classes, and the network alone on the same photos, in turns.

    python -m benchmarks.evaluation [--threads 2] [--repeats 3] [--json OUT]

*Evaluate* reads and resizes photos and masks, runs the network, resizes its logits, counts, and computes the scores.
*Network* only runs the same passes. The photos are the examples; the masks are random blocks of classes. All weights
are random.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import upernet
from benchmarks.side_by_side import command_line, compare, save, show
from upernet.data.sources import open_source
from upernet.evaluation import TestTimeAugmentation, evaluate
from upernet.evaluation.tta import network_input
from upernet.models import UPerNet, prepare_for_inference
from upernet.recipe import Recipe, load_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPE = "upernet_internimage_t_512_160k_ade20k"
PHOTOS = 4
SINGLE = TestTimeAugmentation()
PUBLISHED = TestTimeAugmentation(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)


def write_data(folder: Path, photos: int, short_side: int) -> None:
    """Write a data set in the layout of the recipe."""
    random = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (folder / "ade20k" / "validation" / kind).mkdir(parents=True)
    names = ["unlabeled", *load_recipe(RECIPE).load_taxonomy().level("object").names]
    (folder / "ade20k" / "labels.txt").write_text("".join(f"{value}\t{name}\n" for value, name in enumerate(names)))
    for path in sorted(EXAMPLES.glob("*.jpg"))[:photos]:
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((2 * short_side, short_side) if photo.width > photo.height else (short_side, 2 * short_side))
        photo.save(folder / "ade20k" / "validation" / "images" / path.name, quality=90)
        blocks = random.integers(0, len(names), (-(-photo.height // 32), -(-photo.width // 32)), dtype=np.uint8)
        mask = blocks.repeat(32, 0).repeat(32, 1)[: photo.height, : photo.width]
        Image.fromarray(mask).save(folder / "ade20k" / "validation" / "annotations" / f"{path.stem}.png")


def network_alone(model: UPerNet, recipe: Recipe, data: Path, tta: TestTimeAugmentation) -> Callable[[], None]:
    """Return a function that runs the passes of an evaluation."""
    (name, spec), *_ = recipe.sources.items()
    source = open_source(name, spec, model.taxonomy, data, "val")
    network = prepare_for_inference(model)
    inputs = [
        network_input(model, source[index], spec.test_resize, "cpu", scale)
        for index in range(len(source))
        for scale in tta.scales
    ]

    @torch.inference_mode()
    def run() -> None:
        for image in inputs:
            for flipped in (False, True)[: 1 + tta.flip]:
                network(image.flip(-1) if flipped else image, levels=("object",))

    return run


def main() -> None:
    arguments = command_line(__doc__)
    recipe = load_recipe(RECIPE)
    rows: dict[str, Any] = {}
    models = {
        "EfficientNet-Lite2": UPerNet("tf_efficientnet_lite2", recipe.load_taxonomy(), decoder_channels=96),
        "InternImage-T": upernet.create_model(RECIPE),
    }
    ways = {
        "EfficientNet-Lite2, one scale": ("EfficientNet-Lite2", SINGLE),
        "InternImage-T, one scale": ("InternImage-T", SINGLE),
        "InternImage-T, six scales, mirrored": ("InternImage-T", PUBLISHED),
    }
    photos = 1 if arguments.quick else PHOTOS
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_data(data, photos, 64 if arguments.quick else 512)
        if arguments.quick:
            small = {"test_resize": {"short_side": 64, "long_side": 128, "multiple": 32, "antialias": False}}
            spec = recipe.sources["ade20k"]
            shrunk = type(spec).model_validate(spec.model_dump() | small)
            recipe = recipe.model_copy(update={"sources": {"ade20k": shrunk}})
        for name, (which, tta) in ways.items():
            model = models[which].eval()
            runs: dict[str, Callable[[], object]] = {
                "network": network_alone(model, recipe, data, tta),
                "evaluate": lambda model=model, tta=tta: evaluate(model, recipe, data, "val", tta=tta),
            }
            rows[name] = result = compare(runs, 1 if arguments.quick else arguments.repeats)
            result["photos"] = photos
            show(name, result)
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
