"""Small data sets on disk, and a taxonomy for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from upernet.recipe import AnySourceSpec
from upernet.taxonomy import Taxonomy

TAXONOMY = Taxonomy.from_dict(
    {
        "name": "tiny",
        "levels": {
            "scene": {"classes": ["street", "garden"]},
            "object": {"classes": ["sky", "road", "tree", "person"]},
            "part": {"classes": ["hair", "hand"], "of": {"person": ["hair", "hand"]}},
            "material": {"classes": ["asphalt", "foliage", "hair"]},
            "texture": {"classes": ["banded", "dotted"]},
        },
    }
)


def source_spec(**settings: Any) -> AnySourceSpec:
    """Return the settings of a source: a mask folder of objects, unless told otherwise."""
    return TypeAdapter(AnySourceSpec).validate_python(
        {"kind": "mask_folder", "path": "set/{split}", "level": "object", **settings}
    )


def save_photo(path: Path, width: int = 12, height: int = 8, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def make_mask_folder(root: Path, split: str = "train", count: int = 3, values=(0, 1, 2, 3), names=True) -> Path:
    """`count` photos of 12 x 8 with random masks of `values`; labels.txt above the split's folder."""
    folder = root / "set" / split
    for number in range(count):
        save_photo(folder / "images" / f"{number:03}.png", seed=number)
        mask = np.random.default_rng(number).choice(np.array(values), (8, 12))
        mask.flat[: len(values)] = values
        save_mask(folder / "annotations" / f"{number:03}.png", mask)
    if names:
        (root / "set" / "labels.txt").write_text("0\tSky\n1\tRoad\n2\tTree\n3\tPerson\n")
    return folder


def make_label_folder(root: Path, split: str = "train", count: int = 2, classes=("garden", "street")) -> Path:
    folder = root / "set" / split
    for name in classes:
        for number in range(count):
            save_photo(folder / name / f"{number}.jpg", seed=number)
    return folder
