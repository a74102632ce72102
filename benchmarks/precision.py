"""What bfloat16 and int8 change in a trained network: the classes of real photos' pixels, and the scores.

    upernet train internimage_t_camvid_512 --data DIR --out RUN
    python -m benchmarks.precision internimage_t_camvid_512 RUN/model.safetensors --data DIR

The photos are those of the recipe's test split; ranges for int8 are observed on PHOTOS of its training split. Untrained
networks are in `benchmarks.models`; their classes differ more, because the largest of their logits are hardly larger
than the others.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.side_by_side import command_line, save
from upernet.checkpoints import load_model
from upernet.evaluation.loop import eval_mode, open_sources
from upernet.evaluation.scores import Scores
from upernet.evaluation.tta import NO_AUGMENTATION, photo_outputs
from upernet.models import Precision, UPerNet, prepare_for_inference
from upernet.ops import bfloat16_unavailable, int8_unavailable
from upernet.recipe import Recipe, load_recipe

PHOTOS = 8
"""Photos on which the ranges for int8 are observed, about."""


def calibration_images(model: UPerNet, recipe: Recipe, data: Path) -> list[Tensor]:
    """Return photos of the training split as the network takes them in an evaluation."""
    images: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0].clone()))
    sources, _ = open_sources(model, recipe, data, "train")
    with eval_mode(model, "cpu"):
        for source in sources.values():
            for index in range(0, len(source), -(-len(source) // PHOTOS)):
                photo_outputs(model, source[index], source.spec, "cpu", NO_AUGMENTATION)
    hook.remove()
    return images


def main() -> None:
    arguments = command_line(__doc__, "recipe", "checkpoint", "--data")
    recipe = load_recipe(arguments.recipe)
    exact = load_model(str(arguments.recipe), arguments.checkpoint)
    ways = {"fp32": exact}
    reduced: dict[Precision, str] = {"bf16": bfloat16_unavailable(), "int8": int8_unavailable()}
    for precision, fault in reduced.items():
        if fault:
            print(f"without {precision}: {fault}")
            continue
        images = calibration_images(exact, recipe, arguments.data) if precision == "int8" else []
        ways[precision] = prepare_for_inference(exact, precision, images)
    scores = {way: Scores(exact.taxonomy) for way in ways}
    same, error = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
    pixels = photos = 0
    sources, _ = open_sources(exact, recipe, arguments.data, "test")
    with eval_mode(exact, "cpu"):
        for source in sources.values():
            for index in range(2 if arguments.quick else len(source)):
                sample = source[index]
                found: dict[str, torch.Tensor] = {}
                for way, network in ways.items():
                    logits, via_sizes = photo_outputs(network, sample, source.spec, "cpu", NO_AUGMENTATION)
                    scores[way].update(logits, sample, via_sizes=via_sizes)
                    size = sample.maps["object"].shape[-2:]
                    found[way] = F.interpolate(logits["object"], size, mode="bilinear", align_corners=False)
                labels, spread = found["fp32"].argmax(1), found["fp32"].std()
                for way, logits in found.items():
                    same[way] += int((logits.argmax(1) == labels).sum())
                    error[way] = max(error[way], float((logits - found["fp32"]).abs().max() / spread))
                pixels += labels.numel()
                photos += 1
    rows = {
        way: {
            "miou": score.result()["object"].to_dict()["miou"],
            "argmax_agreement": same[way] / pixels,
            "relative_error": error[way],
        }
        for way, score in scores.items()
    }
    for way, row in rows.items():
        print(
            f"{way}, {photos} photos: mIoU {row['miou']:.4f}, the same class on {100 * row['argmax_agreement']:.3f} % "
            f"of the pixels; logits differ by {row['relative_error']:.3f} of their spread at most"
        )
    save(arguments, photos=photos, rows=rows)


if __name__ == "__main__":
    main()
