"""Tests of the way from a stranger's folder to a parsed photo, in three commands, on real street scenes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.shared import DATA, needs_data
from PIL import Image

from upernet.rle import encode
from upernet.taxonomy import load_taxonomy

pytestmark = [pytest.mark.slow, pytest.mark.process, needs_data]

CAMVID = DATA / "camvid"
SIZE = (120, 90)
NAMES = [line.split("\t")[1] for line in (CAMVID / "labels.txt").read_text().splitlines()] if DATA.is_dir() else []
COLORS = np.array([*load_taxonomy("camvid").level("object").colors, (0, 0, 0)], np.uint8)


def street_scenes(count: int = 6) -> list[tuple[str, Image.Image, np.ndarray]]:
    """Return the name, the photo and the class numbers of some frames, reduced."""
    paths = sorted((CAMVID / "train" / "images").iterdir())[:: 367 // count][:count]
    scenes: list[tuple[str, Image.Image, np.ndarray]] = []
    for path in paths:
        mask = Image.open(CAMVID / "train" / "annotations" / f"{path.stem}.png").resize(SIZE, Image.Resampling.NEAREST)
        scenes.append((path.stem, Image.open(path).resize(SIZE), np.asarray(mask)))
    return scenes


def save(image: Image.Image | np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)


def index_masks(root: Path) -> None:
    for name, photo, mask in street_scenes():
        save(photo, root / "images" / f"{name}.jpg")
        save(mask, root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))


def colors_with_a_table(root: Path) -> None:
    for name, photo, mask in street_scenes():
        save(photo, root / f"{name}.png")
        save(COLORS[mask], root / f"{name}_L.png")
    lines = [f"{r} {g} {b}\t{name}" for (r, g, b), name in zip(COLORS.tolist(), NAMES, strict=True)]
    (root / "label_colors.txt").write_text("\n".join(lines))


def colors_without_a_table(root: Path) -> None:
    for number, (name, photo, mask) in enumerate(street_scenes()):
        split = "train" if number < 4 else "val"
        save(photo, root / split / f"{name}.png")
        save(COLORS[mask], root / f"{split}annot" / f"{name}.png")


def coco_polygons(root: Path) -> None:
    """Write outlines as polygons (rows of runs of pixels) for roads, and as run lengths for cars."""
    images: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    for number, (name, photo, mask) in enumerate(street_scenes()):
        save(photo, root / "images" / f"{name}.jpg")
        images.append({"id": number, "file_name": f"{name}.jpg", "width": SIZE[0], "height": SIZE[1]})
        road = [polygon for row in range(SIZE[1]) if (polygon := _row_of(mask == NAMES.index("Road"), row))]
        shapes.append({"image_id": number, "category_id": 1, "segmentation": road})
        cars = encode(mask == NAMES.index("Car"))
        shapes.append({"image_id": number, "category_id": 2, "segmentation": cars})
    categories = [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}]
    values = {"images": images, "annotations": shapes, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(values))


def _row_of(mask: np.ndarray, row: int) -> list[int]:
    """Return the polygon around the pixels from the first to the last one of a row."""
    columns = np.flatnonzero(mask[row])
    if not len(columns):
        return []
    left, right = int(columns[0]), int(columns[-1]) + 1
    return [left, row, right, row, right, row + 1, left, row + 1]


def upernet(*arguments: str, cwd: Path) -> str:
    """Run a command as a user does, without a terminal; return what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "upernet", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


CASES = {
    "index masks": (index_masks, {"Sky", "Building", "Road", "Tree", "Car"}),
    "colors with a table": (colors_with_a_table, {"Sky", "Building", "Road", "Tree", "Car"}),
    "colors without a table": (colors_without_a_table, {"color_128_64_128", "color_64_0_128"}),
    "COCO": (coco_polygons, {"background", "road", "car"}),
}


@pytest.mark.parametrize(("make", "classes"), CASES.values(), ids=CASES)
def test_three_commands(tmp_path: Path, make: Callable[[Path], None], classes: set[str]) -> None:
    make(tmp_path / "photos")
    photo = next(path for path in sorted((tmp_path / "photos").rglob("*")) if path.suffix in (".jpg", ".png"))
    said = upernet("init", "photos", "--yes", "--out", "my.yaml", cwd=tmp_path)
    assert "6 annotated photos" in said and "upernet train my.yaml" in said
    assert all(len(line) <= 80 for line in said.splitlines())
    upernet("train", "my.yaml", "--iterations", "4", cwd=tmp_path)
    upernet("parse", str(photo), "--model", "runs/my", "--out", "parsed", cwd=tmp_path)
    (parse,) = tmp_path.glob("parsed/*/parse.json")
    taxonomy = load_taxonomy(tmp_path / "my-classes.yaml")
    assert json.loads(parse.read_text())["object"]["names"] == list(taxonomy.level("object").names)
    with Image.open(parse.parent / "object.png") as labels:
        assert labels.size == SIZE
    assert classes <= set(taxonomy.level("object").names)
