"""A network whose logits are a fixed function of color, with a taxonomy and photos whose scores are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from upernet.models import Preprocess, UPerNet
from upernet.recipe import Recipe
from upernet.taxonomy import Taxonomy

RED, GREEN, BLUE, VIOLET = (255, 0, 0), (0, 255, 0), (0, 0, 255), (100, 0, 255)

TAXONOMY = Taxonomy.from_dict(
    {
        "name": "colors",
        "description": "Three colors at five levels.",
        "levels": {
            "scene": {"classes": [{"name": name} for name in ("beach", "forest", "night")]},
            "object": {"classes": [{"name": name} for name in ("sky", "tree", "person")]},
            "part": {
                "background": {"name": "none"},
                "classes": [{"name": "head"}, {"name": "body"}],
                "of": {"person": ["head", "body"]},
            },
            "material": {"classes": [{"name": name} for name in ("brick", "wood", "water")]},
            "texture": {"classes": [{"name": name} for name in ("banded", "dotted", "cracked")]},
        },
    }
)


class ColorNetwork(nn.Module):
    """Red, green and blue are classes 0, 1 and 2 of every level; a violet part is a body, a blue one a head."""

    def __init__(self) -> None:
        super().__init__()
        self.taxonomy = TAXONOMY
        self.preprocess = Preprocess((0, 0, 0), (1, 1, 1))
        self.asked: list[tuple[str, ...]] = []
        self.familiarity = None

    def forward(self, images: Tensor, levels: tuple[str, ...] = ()) -> dict[str, Tensor]:
        assert not self.training
        self.asked.append(tuple(levels))
        colors = F.avg_pool2d(images, 4, ceil_mode=True)
        red = colors[:, :1]
        parts = torch.cat([torch.full_like(red, -1), 0.2 - red, red - 0.2], dim=1)
        logits = dict.fromkeys(("object", "material", "texture"), 10 * colors)
        logits |= {"scene": 10 * colors.mean((2, 3)), "part": parts}
        return {level: logits[level] for level in levels}


def color_network() -> UPerNet:
    return cast(UPerNet, ColorNetwork())


def recipe(**sources: Any) -> Recipe:
    values = {"description": "Colors.", "taxonomy": "colors", "model": {"backbone": "none"}, "sources": sources}
    return Recipe.model_validate(values).model_copy(update={"name": "colors"})


def halves(left: tuple[int, int, int], right: tuple[int, int, int], size: int = 16) -> np.ndarray:
    """Paint a square photo of two colors."""
    photo = np.empty((size, size, 3), dtype=np.uint8)
    photo[:, : size // 2], photo[:, size // 2 :] = left, right
    return photo


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
