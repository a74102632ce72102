"""A network that reads labels from colors, and photos painted for it, so that whole label maps can be asserted.

Red is 40 x object label, green is 40 x position in the object's part group, blue is 40 x material (and scene) label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.taxonomy import Level, PartGroup, Taxonomy

STEP = 40
SKY, ROAD, PERSON, DOG = range(4)


def _level(name: str, names: tuple[str, ...], background: bool = False) -> Level:
    colors = tuple((60 * i % 256, 255 - 50 * i, 90 + 30 * i) for i in range(len(names)))
    return Level(name, names, colors, background)


TAXONOMY = Taxonomy(
    name="painted",
    description="labels as colors",
    levels={
        "scene": _level("scene", ("street", "office", "park")),
        "object": _level("object", ("sky", "road", "person", "dog")),
        "part": _level("part", ("none", "hair", "skin", "paw"), background=True),
        "material": _level("material", ("asphalt", "fabric", "fur")),
    },
    part_groups=(PartGroup(PERSON, (0, 1, 2), 0), PartGroup(DOG, (0, 1, 3), 3)),
)


class PaintedNetwork(nn.Module):
    """Logits fall with the distance between a block's mean color and the class's color, down to -16 x `sharpness`.

    `sharpness` 1 gives probabilities within 1e-6 of 1 for painted colors. `sizes` records what went through.
    """

    def __init__(self, taxonomy: Taxonomy = TAXONOMY, sharpness: float = 1.0):
        super().__init__()
        self.taxonomy = taxonomy
        self.sharpness = sharpness
        self.sizes: list[tuple[int, int]] = []
        self.familiarity = None

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self.taxonomy.levels)

    def preprocess(self, image: Tensor) -> Tensor:
        return image.float()

    def forward(self, images: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        assert height % 32 == 0 and width % 32 == 0
        self.sizes.append((height, width))
        blocks = F.avg_pool2d(images, 4)
        parts = torch.tensor([part for group in self.taxonomy.part_groups for part in range(len(group.parts))])
        found = {}
        for level in levels:
            channel = {"object": 0, "part": 1}.get(level, 2)
            labels = parts if level == "part" else torch.arange(self.taxonomy.num_logits(level))
            values = blocks.mean(dim=(2, 3), keepdim=True) if level == "scene" else blocks
            steps = values[:, channel : channel + 1] / STEP - labels.view(1, -1, 1, 1)
            logits = -16 * self.sharpness * steps.abs().clamp(max=1) ** 2
            found[level] = logits.flatten(1) if level == "scene" else logits
        return found


def paint(objects: np.ndarray, parts: np.ndarray | int = 0, materials: np.ndarray | int = 0) -> np.ndarray:
    """uint8 H x W x 3 photo that shows these labels; `parts` are positions in the object's group."""
    channels = np.broadcast_arrays(objects, parts, materials)
    return (STEP * np.stack(channels, axis=-1)).astype(np.uint8)


def four_quarters(height: int = 64, width: int = 96) -> np.ndarray:
    """Object labels: sky above road on the left, person above dog on the right."""
    labels = np.zeros((height, width), int)
    labels[height // 2 :, : width // 2] = ROAD
    labels[: height // 2, width // 2 :] = PERSON
    labels[height // 2 :, width // 2 :] = DOG
    return labels
