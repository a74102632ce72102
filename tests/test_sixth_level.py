"""Tests of upernet.taxonomy.levels: a sixth level, added to a copy of the package, is trained, evaluated and parsed.

docs/extending.md ("Add a level") lists the same three files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import upernet

ROW = 'LevelKind("affordance", dense=True, reads="fused", owned_by=None, loss_weight=1.0),'
LAST_ROW = 'LevelKind("texture", '
TAXONOMY = """
description: What things are good for.
levels:
  object:
    classes: [sky, chair]
  affordance:
    background: none
    classes: [sit, grasp]
"""
RECIPE = """
description: Objects and affordances of painted photos.
taxonomy: affordances
model: {backbone: efficientnet_lite0, decoder_channels: 16}
sources:
  things: {kind: mask_folder, path: "things/{split}", level: object, augmentation: {crop: [64, 64]}, batch_size: 2}
  uses: {kind: mask_folder, path: "uses/{split}", level: affordance, augmentation: {crop: [64, 64]}, batch_size: 2}
training:
  stages:
    - {name: all, iterations: 2, sources: [things, uses], learning_rate: 0.01}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of the package that has one more level."""
    folder = tmp_path_factory.mktemp("package")
    here = Path(upernet.__file__).parent
    shutil.copytree(here, folder / "upernet", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    levels = folder / "upernet/taxonomy/levels.py"
    text = levels.read_text()
    levels.write_text(text.replace(LAST_ROW, f"{ROW}\n        {LAST_ROW}"))
    (folder / "upernet/taxonomy/affordances.yaml").write_text(TAXONOMY)
    (folder / "upernet/recipes/affordances.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    colors = np.array([(90, 160, 255), (160, 80, 40), (20, 200, 60)], np.uint8)
    for source, names in (("things", "0\tsky\n1\tchair\n"), ("uses", "0\tnone\n1\tsit\n2\tgrasp\n")):
        for split in ("train", "test"):
            images, masks = (folder / source / split / kind for kind in ("images", "annotations"))
            images.mkdir(parents=True)
            masks.mkdir()
            for number in range(2):
                labels = np.arange(64 * 64).reshape(64, 64) // 64 * names.count("\n") // 64
                Image.fromarray(colors[labels]).save(images / f"{number}.png")
                Image.fromarray(labels.astype(np.uint8)).save(masks / f"{number}.png")
            (folder / source / split / "labels.txt").write_text(names)
    return folder


@pytest.mark.slow
@pytest.mark.process
def test_a_sixth_level_needs_one_row_a_taxonomy_and_a_recipe(package: Path, data: Path, tmp_path: Path):
    def run(*arguments: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(package)}
        command = [sys.executable, "-m", "upernet", *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("data", "check", "affordances", "--data", data)
    run("train", "affordances", "--data", data, "--out", tmp_path / "run")
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 2

    run("evaluate", "affordances", "--checkpoint", tmp_path / "run", "--data", data, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["affordance"]["per_class"]) == {"sit", "grasp"}
    assert 0 <= scores["affordance"]["pixel_accuracy"] <= 1

    photo = data / "uses/test/images/0.png"
    run("parse", photo, "--model", tmp_path / "run", "--out", tmp_path / "parses")
    parse = json.loads((tmp_path / "parses/0/parse.json").read_text())
    assert parse["affordance"]["names"] == ["none", "sit", "grasp"]
    assert "ffordance" in parse["description"]
    assert Image.open(tmp_path / "parses/0/affordance.png").size == (64, 64)

    code = f"""
import upernet
parse = upernet.load({str(tmp_path / "run")!r})({str(photo)!r})
assert parse["affordance"].labels.shape == (64, 64)
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(package)}, check=True)
