"""Tests of a texture level of regions: trained on collages and whole photos, scored, calibrated and parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.shared import DATA, needs_data

from upernet.checkpoints import load_checkpoint
from upernet.data.sources import open_source
from upernet.evaluation import evaluate
from upernet.inference import Parser
from upernet.recipe import Recipe, load_recipe
from upernet.taxonomy import load_taxonomy
from upernet.training import train
from upernet.training.checking import training_problems


@pytest.fixture
def recipe(recipe_file: Any, tmp_path: Path) -> Recipe:
    values = recipe_file.recipe
    sources = values["sources"] | {
        "textures": values["sources"]["textures"] | {"held_back": 0.4},
        "streets": values["sources"]["streets"] | {"held_back": 0.4},
        "collage": {
            "kind": "collage", "textures": "textures", "backgrounds": ["streets"],
            "photos": {"train": 8, "held_back": 3, "test": 3}, "batch_size": 4,
            "augmentation": {"scale": [0.8, 1.2], "crop": [48, 48]},
        },
    }  # fmt: skip
    stage = {"name": "texture", "iterations": 4, "sources": ["collage", "textures"], "trains": "texture",
             "learning_rate": 0.003}  # fmt: skip
    model = values["model"] | {"texture": {"channels": 8, "depth": 1, "stride": 8, "windows": [3, 5]}}
    content = values | {"sources": sources, "model": model}
    content["training"] = {"workers": 0, "stages": [stage], "validation": None}
    content["calibration"] = {"target_precision": {"texture": 0.1}, "negatives": {"texture": ["streets"]}}
    (tmp_path / "regions_recipe.yaml").write_text(yaml.safe_dump(content))
    return load_recipe(tmp_path / "regions_recipe.yaml")


@pytest.mark.slow
def test_a_texture_level_of_regions(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    path = train(recipe, data, tmp_path / "run", device="cpu", quiet=True, log=lambda line: None)
    model, card = load_checkpoint(path)
    texture = model.taxonomy.level("texture")
    assert texture.known_background and texture.names[0] == "none" and set(card.thresholds) == {"texture"}
    result = evaluate(model, recipe, data)
    assert set(result.sources["collage"]) == {"texture"} and result.photos["collage"] == 3
    assert result["texture"]["miou"] is not None and result["texture"]["top1"] is not None
    assert "none" not in result["texture"]["per_class"]
    parse = Parser(model, {"thresholds": {"texture": 1.01}})(sorted((data / "streets").rglob("images/*.png"))[0])
    assert parse.texture.shares() == {"none": 1.0} and parse.texture.regions() == []


@needs_data
@pytest.mark.slow
def test_the_collages_of_the_bundled_recipe_fit_the_data() -> None:
    recipe = load_recipe("everyday")
    taxonomy = load_taxonomy(recipe.taxonomy)
    (collage,) = (spec for spec in recipe.sources.values() if spec.kind == "collage")
    for split in ("train", "held_back", "test"):
        sample = open_source("collage", collage, taxonomy, DATA, split, recipe.sources)[0]
        assert sample.maps["texture"].shape == sample.image.shape[-2:]
    assert training_problems(recipe, DATA) == []
