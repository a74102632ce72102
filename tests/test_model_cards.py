"""Tests of docs/model_cards.py, docs/collect_card.py and docs/ship_model.py: the generated parts of model cards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import collect_card
import model_cards
import numpy as np
import pytest
import ship_model
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from upernet.checkpoints import load_checkpoint, save_checkpoint, shipped_checkpoint
from upernet.checkpoints.header import card_in
from upernet.evaluation import evaluate
from upernet.evaluation.folder import write_evaluation
from upernet.evaluation.subject import Subject
from upernet.models import UPerNet, list_models
from upernet.recipe import ModelSpec, load_recipe
from upernet.taxonomy import Taxonomy, load_taxonomy

ROOT = Path(__file__).parents[1]
SHIPPED = [name for name in list_models() if shipped_checkpoint(name)]
NUMBER = re.compile(r"\| \d\.\d\d \|")


def page(name: str) -> str:
    return (ROOT / "docs" / "models" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_page_has_every_part_and_no_empty_table(name: str):
    parts = set(re.findall(rf"<!-- results: (\w+?)_{name} -->\n", page(name)))
    assert parts >= set(model_cards.PARTS) - {"ablations"}
    for block in re.findall(r"<!-- results: \w+ -->\n(.*?)<!-- end of results -->", page(name), re.DOTALL):
        assert block.strip()
        for head, rest in re.findall(r"(\|.*\|\n\|[ :|-]+\|\n)(.*)", block):
            assert rest.startswith("|"), f"a table without rows: {head}"
    assert "LicenseRef-upernet-weights" in page(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_page_lists_the_scores_of_the_classes_of_every_level(name: str):
    lists = re.findall(r"^Classes of \*\*(\w+)\*\*.*\n\n((?:\|.*\|\n)+)", page(name), re.MULTILINE)
    assert [level for level, _ in lists] == list(load_taxonomy(load_recipe(name).taxonomy).levels)
    assert all(len(NUMBER.findall(rows)) >= 2 for _, rows in lists)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_source_has_its_terms_and_its_photos(name: str):
    rows = [line for line in model_cards.data(name) if line.startswith("| `")]
    recipe = load_recipe(name)
    assert len(rows) == len(recipe.sources)
    for row, source in zip(rows, recipe.sources, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[0] == f"`{source}`" and all(cells[1:4])
        assert cells[-1].isdecimal() and (source not in recipe.training_data or cells[4].isdecimal())


def test_classes_with_pixels_and_image_labels_have_both_scores():
    values: dict[str, Any] = {
        "per_class": {
            "wood": {"iou": 0.5, "accuracy": 0.75, "pixels": 12345, "top1": None, "photos": 0},
            "glass": {"iou": None, "accuracy": None, "pixels": 0, "top1": 0.25, "photos": 4},
            "stone": {"iou": None, "accuracy": None, "pixels": 0, "top1": None, "photos": 0},
        }
    }
    assert model_cards.class_table(values) == [
        "| class | IoU | recall | pixels | top-1 | photos |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| wood | 0.50 | 0.75 | 12,345 | - | 0 |",
        "| glass | - | - | 0 | 0.25 | 4 |",
        "",
        "Not in the test photos: stone.",
    ]


def test_ablations_are_a_row_per_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    first = {"mean": 0.4, "nyu40.object.miou": 0.3, "msrc.object.miou": 0.5, "scene.scene.top1": 0.4}
    second = {"mean": 0.5, "nyu40.object.miou": 0.25, "msrc.object.miou": 0.35, "scene.scene.top1": 0.9}
    common = {"changes": {}, "iterations": 900}
    runs = [
        {"name": "base", "why": "the recipe", **common, "scores": first, "seconds": 600},
        {"name": "no maps", "why": "whether maps help", **common, "scores": second, "seconds": 570.5},
    ]
    monkeypatch.setattr(model_cards, "RESULTS", tmp_path)
    assert model_cards.ablations("everyday") == ["No ablations of `everyday` have been recorded."]
    (tmp_path / "ablations.json").write_text(json.dumps(runs))
    assert model_cards.ablations("everyday") == [
        "| run | question | iterations | minutes | all | object mIoU | scene top-1 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| base | the recipe | 900 | 10 | 0.400 | **0.400** | 0.400 |",
        "| no maps | whether maps help | 900 | 10 | **0.500** | 0.300 | **0.900** |",
    ]


def test_mappings_of_classes_say_what_was_merged_and_left_out():
    lines = model_cards.classes("everyday")
    (clothing,) = [line for line in lines if line.startswith("* `clothing_parts`, part:")]
    assert "*outerwear*: " in clothing and "*left out*: background" in clothing


@pytest.mark.slow
def test_the_worst_photos_are_shown_where_the_terms_allow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    sources = {}
    for name, shareable in (("open", True), ("closed", False)):
        for number in range(4):
            for kind, pixels in (
                ("images", rng.integers(0, 256, (40, 40, 3))),
                ("annotations", rng.integers(0, 2, (40, 40))),
            ):
                file = tmp_path / "data" / name / "test" / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
        (tmp_path / "data" / name / "test" / "labels.txt").write_text("0\ta\n1\tb\n")
        terms = {"name": name, "license": "some", "shareable": shareable}
        sources[name] = {"kind": "mask_folder", "path": f"{name}/{{split}}", "level": "object", "terms": terms}
    taxonomy = Taxonomy.of_objects(["a", "b"], "ab")
    (tmp_path / "ab.yaml").write_text(yaml.safe_dump(taxonomy.to_dict()))
    spec = {"backbone": "mobilenetv3_small_050", "decoder_channels": 8, "auxiliary_channels": None}
    content = {"description": "two sources", "taxonomy": "ab.yaml", "model": spec, "sources": sources}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    model = UPerNet(ModelSpec.model_validate(spec), load_taxonomy(recipe.taxonomy)).eval()
    result = evaluate(model, recipe, tmp_path / "data", "test")
    write_evaluation(tmp_path / "evaluation", result, "tiny", Subject(model, recipe, tmp_path / "data"))

    monkeypatch.setattr(collect_card, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(collect_card, "SHOWN", 8)
    assert collect_card.count_photos(recipe, tmp_path / "data") == {"open": {"test": 4}, "closed": {"test": 4}}
    worst = collect_card.collect_worst("tiny", recipe, tmp_path / "evaluation")
    assert len(worst) == 8
    for photo in worst:
        assert (photo["picture"] is not None) == photo["photo"].startswith("open")
        assert re.fullmatch(r".*% of the pixels right", photo["accuracy"])
        if photo["picture"]:
            with Image.open(tmp_path / "pictures" / "tiny" / photo["picture"]) as picture:
                assert max(picture.size) <= collect_card.WIDTH
    monkeypatch.setattr(model_cards, "RESULTS", tmp_path)
    (tmp_path / "tiny.card.json").write_text(json.dumps({"worst": worst}))
    lines = model_cards.failures("tiny")
    assert lines[0] == "**object**"
    for start in ("* `open/", "  ![open/", "* `closed/"):
        assert sum(line.startswith(start) for line in lines) == 4, start


def test_shipping_changes_the_card_and_no_tensor(tmp_path: Path):
    model = UPerNet(
        ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=None),
        Taxonomy.of_objects(["a"], "a"),
    )
    source, target = tmp_path / "run.safetensors", tmp_path / "shipped.safetensors"
    save_checkpoint(source, model, {"name": "run", "thresholds": {"object": 0.5}, "research_only": True})
    ship_model.stamp(source, target, {"name": "everyday", "license": "MIT", "research_only": False})
    card = card_in(target)
    assert card is not None
    assert (card.name, card.license, card.thresholds) == ("everyday", "MIT", {"object": 0.5})
    assert card.research_only, "the weights that the run started from were for research only"
    before, after = load_file(source), load_file(target)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_classes_that_the_recipe_lacks_are_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ship_model, "SHIPPED", tmp_path)
    monkeypatch.setattr(ship_model, "RESULTS", tmp_path)
    spec = ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=4)
    trained = UPerNet(spec, Taxonomy.of_objects(["cup", "dog", "tree"])).eval()
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "model.safetensors", trained, {"research_only": True})
    (tmp_path / "run" / "log.jsonl").write_text("{}\n")
    (tmp_path / "two.yaml").write_text("description: ''\nlevels: {object: {classes: [tree, cup]}}\n")
    (tmp_path / "tiny.yaml").write_text(
        "description: two of three classes\ntaxonomy: two.yaml\nsources: {}\n"
        "model: {backbone: mobilenetv3_small_050, decoder_channels: 8, auxiliary_channels: 4}\n"
    )
    ship_model.ship(str(tmp_path / "tiny.yaml"), tmp_path / "run", tmp_path)
    shipped, card = load_checkpoint(tmp_path / "tiny.safetensors")
    assert card.description == "two of three classes" and card.research_only
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, found = trained(images)["object"], shipped(images)["object"]
    torch.testing.assert_close(found, expected[:, [2, 0]], atol=1e-2, rtol=1e-2)  # float16
    (tmp_path / "two.yaml").write_text("description: ''\nlevels: {object: {classes: [tree, cat]}}\n")
    with pytest.raises(SystemExit, match="was not trained on cat"):
        ship_model.ship(str(tmp_path / "tiny.yaml"), tmp_path / "run", tmp_path)


def test_shipped_weights_have_the_card_of_their_recipe():
    for name in SHIPPED:
        path = shipped_checkpoint(name)
        card = card_in(path) if path else None
        assert card and (card.name, card.description) == (name, load_recipe(name).description)
