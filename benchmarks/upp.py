"""Unified Perceptual Parsing with ResNet-50 and random weights, as the released code computes it and as `upernet` does.

    python -m benchmarks.upp [--threads 2] [--repeats 5] [--json OUT]

The released way resizes the means of pyramid pooling before the 1x1 convolution, keeps the batch norms, and
concatenates resized maps before the direct convolutions. PrRoIPool takes two matrix products in both.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.networks import agreement
from benchmarks.side_by_side import command_line, compare, save, show, show_agreement
from upernet.models import UPerNet, build_model, prepare_for_inference
from upernet.models.decoder import ConvBnRelu, PyramidPooling
from upernet.models.precise_pooling import precise_pool
from upernet.ops import PLAIN, resize_like, use_kernel
from upernet.recipe import load_recipe

NAME = "upp_resnet50_upernet"
SIZE = 512
TINY = {"decoder_channels": 32, "pool_channels": 32}


class ReleasedPooling(nn.Module):
    """Pyramid pooling in the order of the released code."""

    def __init__(self, pooling: PyramidPooling):
        super().__init__()
        self.pool_scales, self.pooled, self.bottleneck = pooling.pool_scales, pooling.pooled, pooling.bottleneck

    def forward(self, c5: Tensor) -> Tensor:
        """Map C5 to P5."""
        layers = zip(self.pool_scales, self.pooled, strict=True)
        means = (cast(ConvBnRelu, layer)(resize_like(precise_pool(c5, scale), c5)) for scale, layer in layers)
        return self.bottleneck(c5, *means)


def network(tiny: bool) -> UPerNet:
    """Return the network in eval mode, with batch norms that are not the identity."""
    recipe = load_recipe(NAME)
    if tiny:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=TINY)})
    model = build_model(recipe).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(std=0.1)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    return model


@torch.inference_mode()
def main() -> None:
    arguments = command_line(__doc__)
    size = 64 if arguments.quick else SIZE
    fast = network(arguments.quick)
    released = copy.deepcopy(fast)
    released.ppm = cast(Any, ReleasedPooling(fast.ppm))
    fast = prepare_for_inference(fast)
    images = torch.randn(1, 3, size, size)
    plain = use_kernel(**PLAIN)
    pairs = {
        "whole": (plain(lambda: released(images)), lambda: fast(images)),
        "backbone": (lambda: released.backbone(images), lambda: fast.backbone(images)),
        "one level, object": (plain(lambda: released(images, ["object"])), lambda: fast(images, ["object"])),
    }
    rows: dict[str, Any] = {}
    for what, (before, after) in pairs.items():
        name = f"{NAME} at {size}, {what}"
        rows[name] = compare({"official": before, "fast": after}, arguments.repeats)
        show(name, rows[name])
    expected, found = pairs["whole"][0](), pairs["whole"][1]()
    first = next(iter(rows))
    rows[first]["agreement"] = {level: agreement(found[level], logits) for level, logits in expected.items()}
    show_agreement(rows[first]["agreement"])
    save(arguments, rows=rows)


if __name__ == "__main__":
    main()
