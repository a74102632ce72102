"""Data sets as people have them: the same painted photos and masks in many layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
COLORS = {0: (128, 128, 128), 1: (128, 64, 128), 2: (107, 142, 35), 3: (0, 0, 0)}
"""Class number -> color of the masks: sky, road, tree, void."""
NAMES = ("sky", "road", "tree", "void")


Paint = Callable[[np.ndarray], np.ndarray]


def same(values: np.ndarray) -> np.ndarray:
    """Return the class numbers as they are."""
    return values


def labels(seed: int, classes: int = 4) -> np.ndarray:
    """Return a label map of H x W: stripes of all classes, moved by the seed."""
    columns = (np.arange(WIDTH) + seed) * classes // WIDTH % classes
    return np.tile(columns.astype(np.uint8), (HEIGHT, 1))


def save_photo(path: Path, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Save a photo that shows the classes of `labels` in their colors, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clean = np.array([COLORS[i] for i in range(4)], np.float64)[labels(seed)]
    noise = np.random.default_rng(seed).normal(0, 9, clean.shape)
    Image.fromarray((clean + noise).clip(0, 255).astype(np.uint8)).resize(size).save(path)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_palette(path: Path, values: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> None:
    """Save a palette image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values).convert("P")
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)


def in_colors(values: np.ndarray) -> np.ndarray:
    """Return a mask in the colors of the classes, uint8 H x W x 3."""
    return np.array([COLORS[i] for i in range(4)], np.uint8)[values]


def make(
    root: Path, photo: str = "images/{}.jpg", mask: str = "masks/{}.png", count: int = 8, paint: Paint = same
) -> Path:
    """Save photos and masks of class numbers (or `in_colors`); `{}` is the number of the photo.

    Args:
        root: The folder.
        photo: Path of a photo.
        mask: Path of its mask.
        count: Number of photos.
        paint: Function from a label map to the pixels of its mask.
    """
    for number in range(count):
        save_photo(root / photo.format(f"{number:03}"), number)
        save(root / mask.format(f"{number:03}"), paint(labels(number)))
    return root


def coco(photos: Sequence[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """Return COCO annotations: in each photo a road below and a tree on it; the rest is outside of all outlines."""
    width, height = size
    road = [0, height / 2, width, height / 2, width, height, 0, height]
    tree = [width / 4, height / 4, width / 2, height / 4, width / 2, height * 3 / 4, width / 4, height * 3 / 4]
    shapes = [(4, road), (9, tree)]
    return json.dumps(
        {
            "images": [
                {"id": number, "file_name": name, "width": width, "height": height}
                for number, name in enumerate(photos)
            ],
            "categories": [{"id": 4, "name": "road"}, {"id": 9, "name": "tree"}, {"id": 11, "name": "boat"}],
            "annotations": [
                {"id": len(shapes) * number + i, "image_id": number, "category_id": category, "segmentation": [polygon]}
                for number in range(len(photos))
                for i, (category, polygon) in enumerate(shapes)
            ],
        }
    )
