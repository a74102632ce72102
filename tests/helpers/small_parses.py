"""Parses of small photos whose labels are given by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from upernet.inference import LabelMap, Parse

NAMES = {
    "object": ("-", "car", "person", "tree"),
    "part": ("-", "wheel", "hair"),
    "material": ("metal", "skin", "foliage"),
    "texture": ("striped", "dotted"),
}
SCENES = ("street", "forest")
COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0))


def parse_of(
    maps: Mapping[str, np.ndarray], scene: str | None = "street", path: str | None = None, color: int = 128
) -> Parse:
    """Make a parse of a gray photo: level -> labels, with -1 where unsure; the scene is unsure if it is None."""
    height, width = next(iter(maps.values())).shape
    label_maps = {
        level: LabelMap(
            level,
            labels.astype(np.int16),
            np.ones(labels.shape, np.float32),
            NAMES[level],
            COLORS[: len(NAMES[level])],
            NAMES[level][0] == "-",
        )
        for level, labels in maps.items()
    }
    first = scene or SCENES[0]
    ranking = [(first, 0.8 if scene else 0.3), *((name, 0.1) for name in SCENES if name != first)]
    photo = Image.new("RGB", (width, height), (color, color, color))
    return Parse(photo, label_maps, {"scene": ranking}, thresholds={"scene": 0.5}, model="small", path=path)


def save_parses(folder: Path, parses: Mapping[str, Parse]) -> Path:
    """Save parses to `folder/parses`, and their photos to `folder/photos`; return the first folder."""
    for name, parse in parses.items():
        photo = folder / "photos" / f"{name}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        parse.photo.save(photo)
        parse.path = str(photo)
        parse.save(folder / "parses", name, kinds={"labels"})
    return folder / "parses"
