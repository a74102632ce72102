"""Folders of training runs whose model reads classes off colors, and the photos that they are validated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from helpers.color_checkpoint import color_model, save_color_recipe
from helpers.color_network import BLUE, GREEN, RED, halves, save

from upernet.checkpoints import save_checkpoint

SOURCES = {
    "objects": {"kind": "mask_folder", "path": "objects/{split}", "level": "object"},
    "scenes": {"kind": "label_folder", "path": "scenes/{split}", "level": "scene"},
}


def save_color_run(folder: Path, data: Path, swapped: bool = False) -> None:
    """Write a run. If `swapped`, its model takes the first two objects for each other."""
    folder.mkdir(parents=True)
    save_color_recipe(folder / "recipe.yaml", SOURCES)
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write(f"data: {data}\n")
    model = color_model()
    if swapped:
        with torch.no_grad():
            weight = model.heads["object"].classifier.weight
            weight[:2] = weight[:2].flip(0)
    save_checkpoint(folder / "model.safetensors", model, {"name": "colors"}, half=True)
    (folder / "state.safetensors").write_bytes(b"")


def save_color_data(folder: Path, split: str = "val") -> None:
    """Write three photos of objects, of which the model gets all, 3/4 and half right, and two of scenes."""
    for number, wrong_rows in enumerate((0, 16, 32)):
        save(folder / "objects" / split / "images" / f"{number}.png", halves(RED, GREEN, 64))
        truth = np.zeros((64, 64), np.uint8)
        truth[:, 32:] = 1
        truth[:wrong_rows] = 2
        save(folder / "objects" / split / "annotations" / f"{number}.png", truth)
    (folder / "objects" / "labels.txt").write_text("0\tsky\n1\ttree\n2\tperson\n")
    save(folder / "scenes" / split / "beach" / "a.png", halves(RED, RED, 64))
    save(folder / "scenes" / split / "night" / "b.png", halves(BLUE, BLUE, 64))
