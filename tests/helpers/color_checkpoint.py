"""A real UPerNet whose weights, set by hand, read classes off colors; its checkpoint, its recipe and a photo for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from helpers.color_network import BLUE, GREEN, RED, TAXONOMY
from torch import nn

from upernet.checkpoints import save_checkpoint
from upernet.models import UPerNet
from upernet.models.efficientnet_lite import InvertedResidual
from upernet.recipe import ModelSpec, TextureSpec

COLORS = 3
SPEC = ModelSpec(
    backbone="tf_efficientnet_lite0",
    decoder_channels=8,
    pool_scales=(),
    texture=TextureSpec(channels=8, depth=1),
    auxiliary_channels=None,
)


@torch.no_grad()
def color_model() -> UPerNet:
    """Build the model: red, green and blue are classes 0, 1 and 2 of every level.

    Every convolution hands its first channels on, so that the three colors reach the classifiers: P2 and the fused map
    have those of each pixel in channels 0 to 2, P5 has those that the scene is read from in channels 3 to 5.
    """
    model = UPerNet(SPEC, TAXONOMY).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight, module.groups)
        if isinstance(module, InvertedResidual) and module.has_skip:
            nn.init.zeros_(module.bn3.weight)  # otherwise, the skip would double the colors
    model.backbone.bn1.bias[:COLORS] = 1  # from -1..1 to 0..2, so that no ReLU cuts anything off
    p5 = model.ppm.bottleneck[0].weight
    p5.copy_(p5.roll(COLORS, 0))
    for level, head in model.heads.items():
        first = COLORS if level == "scene" else 0
        weight = head.classifier.weight
        weight.zero_()
        weight[:, first : first + COLORS].copy_(20 * torch.eye(COLORS).view(weight[:, :COLORS].shape))
        head.classifier.bias.zero_()
    return model


def save_color_checkpoint(path: Path) -> None:
    save_checkpoint(path, color_model(), {"name": "colors"}, half=True)


def save_color_recipe(path: Path, sources: dict[str, dict[str, str]]) -> None:
    """Write a recipe for the model, and its taxonomy beside it."""
    (path.parent / "colors.yaml").write_text(yaml.safe_dump(TAXONOMY.to_dict()))
    recipe = {
        "description": "Classes by color.",
        "taxonomy": "colors.yaml",
        "model": SPEC.model_dump(mode="json"),
        "sources": sources,
    }
    path.write_text(yaml.safe_dump(recipe))


def beach_photo() -> np.ndarray:
    """Paint a photo of 96 x 64 pixels: sky above, a tree at the bottom left and a person's body at the bottom right."""
    photo = np.empty((64, 96, 3), np.uint8)
    photo[:32], photo[32:, :48], photo[32:, 48:] = RED, GREEN, BLUE
    return photo
