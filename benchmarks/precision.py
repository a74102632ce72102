"""What bfloat16 changes in a trained network: the classes of real photos' pixels, and the scores.

    upernet train internimage_t_camvid_512 --data DIR --out RUN
    python -m benchmarks.precision internimage_t_camvid_512 RUN/model.safetensors --data DIR

The photos are those of the recipe's test split. Untrained networks are in `benchmarks.models`; their classes differ
more, because the largest of their logits are hardly larger than the others.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.side_by_side import command_line, save
from upernet.checkpoints import load_model
from upernet.evaluation.loop import eval_mode, open_sources
from upernet.evaluation.scores import Scores
from upernet.evaluation.tta import NO_AUGMENTATION, photo_outputs
from upernet.models import prepare_for_inference
from upernet.ops import bfloat16_unavailable
from upernet.recipe import load_recipe


def main() -> None:
    arguments = command_line(__doc__, "recipe", "checkpoint", "--data")
    if fault := bfloat16_unavailable():
        sys.exit(fault)
    recipe = load_recipe(arguments.recipe)
    exact = load_model(str(arguments.recipe), arguments.checkpoint)
    ways = {"fp32": exact, "bf16": prepare_for_inference(exact, "bf16")}
    scores = {way: Scores(exact.taxonomy) for way in ways}
    same = pixels = photos = 0
    error = 0.0
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
                agree = found["fp32"].argmax(1) == found["bf16"].argmax(1)
                same += int(agree.sum())
                pixels += agree.numel()
                error = max(error, float((found["bf16"] - found["fp32"]).abs().max() / found["fp32"].std()))
                photos += 1
    result: dict[str, Any] = {way: score.result()["object"].to_dict()["miou"] for way, score in scores.items()}
    print(f"{photos} photos: mIoU {result['fp32']:.4f} in float32, {result['bf16']:.4f} in bfloat16")
    print(
        f"same class on {100 * same / pixels:.3f} % of the pixels; logits differ by {error:.3f} of their spread at most"
    )
    save(arguments, photos=photos, miou=result, argmax_agreement=same / pixels, relative_error=error)


if __name__ == "__main__":
    main()
