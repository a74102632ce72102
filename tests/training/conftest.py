"""Fixtures: a data folder of colored rectangles with three kinds of annotation, and a recipe that trains on it."""

import numpy as np
import pytest
import yaml
from cli.conftest import run as run  # the command line in this process
from PIL import Image

COLORS = {"sky": (90, 140, 220), "road": (90, 90, 90), "tree": (30, 120, 40)}


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for split in ("train", "test"):
        images, masks = root / "streets" / split / "images", root / "streets" / split / "annotations"
        images.mkdir(parents=True)
        masks.mkdir()
        for number in range(6):
            horizon = int(rng.integers(16, 48))
            mask = np.zeros((64, 80), np.uint8)
            mask[horizon:] = 1
            mask[10:50, 5:20] = 2
            photo = np.array(list(COLORS.values()), np.float64)[mask] + rng.normal(0, 8, (64, 80, 3))
            Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(images / f"{number}.png")
            Image.fromarray(mask).save(masks / f"{number}.png")
        (root / "streets" / split / "labels.txt").write_text("0\tsky\n1\troad\n2\ttree\n")
        for name, color in (("coast", (20, 60, 160)), ("garden", (60, 160, 40))):
            folder = root / "places" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                photo = np.array(color) + rng.normal(0, 12, (48, 48, 3))
                Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / f"{name}{number}.png")
        for name, step in (("banded", 4), ("chequered", 8)):
            folder = root / "textures" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                rows = (np.arange(40) // step) % 2
                pattern = rows[:, None] ^ (rows if name == "chequered" else 0 * rows)[None]
                Image.fromarray((255 * pattern).astype(np.uint8)).save(folder / f"{name}{number}.png")
    return root


@pytest.fixture
def recipe_file(tmp_path):
    small = {"scale": [0.8, 1.2], "crop": [48, 48]}
    recipe = {
        "description": "three tiny sources",
        "taxonomy": "everyday",
        "model": {
            "backbone": "mobilenetv3_small_050",
            "backbone_weights": None,
            "decoder_channels": 8,
            "auxiliary_channels": 4,
            "dropout": 0.1,
            "texture": {"channels": 8, "depth": 2},
        },
        "sources": {
            "streets": {
                "kind": "mask_folder",
                "path": "streets/{split}",
                "level": "object",
                "implies": {"scene": "street", "material": {"sky": "sky"}},
                "weight": 2,
                "batch_size": 4,
                "augmentation": small,
            },
            "places": {
                "kind": "label_folder",
                "path": "places/{split}",
                "level": "scene",
                "batch_size": 4,
                "augmentation": small,
            },
            "textures": {
                "kind": "label_folder",
                "path": "textures/{split}",
                "level": "texture",
                "supervision": "broadcast",
                "batch_size": 4,
                "augmentation": small,
            },
        },
        "training": {
            "ema_decay": 0.5,
            "workers": 0,
            "checkpoint_every": 2,
            "stages": [
                {"name": "all", "iterations": 7, "sources": ["streets", "places"], "learning_rate": 0.003},
                {
                    "name": "texture",
                    "iterations": 3,
                    "sources": ["textures"],
                    "trains": "texture",
                    "learning_rate": 0.003,
                },
            ],
        },
    }

    def write(**training):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(recipe | {"training": recipe["training"] | training}))
        return path

    write.recipe = recipe  # type: ignore[attr-defined]
    return write
