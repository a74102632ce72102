"""Tests of upernet.data.check and `upernet data check`."""

import json
import re

import numpy as np
import pytest
import yaml
from helpers.folders import TAXONOMY, make_label_folder, make_mask_folder, save_mask, save_photo
from typer.testing import CliRunner

from upernet.cli.data import app
from upernet.data.check import check
from upernet.errors import UpernetError
from upernet.recipe import load_recipe

MODEL = {"backbone": "tf_efficientnet_lite0"}
STAGE = {"name": "all", "iterations": 1, "learning_rate": 0.1}


@pytest.fixture
def recipe(tmp_path):
    """Return a function that writes a recipe with its taxonomy."""

    def write(sources: dict, trained: list[str] | None = None):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TAXONOMY.to_dict()))
        values = {"description": "t", "taxonomy": "tiny.yaml", "model": MODEL, "sources": sources}
        if trained is not None:
            values["training"] = {"stages": [{**STAGE, "sources": trained}]}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "recipe.yaml"

    return write


def masks(**settings):
    return {"kind": "mask_folder", "path": "set/{split}", "level": "object", "splits": {"train": "train"}, **settings}


def scenes(**settings):
    return {**masks(kind="label_folder", path="scenes/set/{split}", level="scene"), **settings}


def test_counts_histograms_and_sizes(tmp_path, recipe):
    folder = make_mask_folder(tmp_path, count=3, values=(0, 255))
    save_photo(folder / "images" / "000.png", width=30, height=20)
    save_mask(folder / "annotations" / "000.png", np.full((20, 30), 2))
    make_label_folder(tmp_path / "scenes", count=2)
    seen = []
    report = check(
        load_recipe(recipe({"masks": masks(), "scenes": scenes()})), tmp_path, lambda *step: seen.append(step)
    )
    assert report.ok and not report.missing
    first, second = report.splits
    assert (first.photos, first.unit, first.widths, first.heights) == (3, "pixels", (12, 12, 30), (8, 8, 20))
    assert first.labels["tree"] == 600 and first.labels["road"] == 0
    assert sum(first.labels.values()) + first.unknown == 600 + 2 * 96 and first.unknown > 0
    assert (second.photos, second.unit, second.labels) == (4, "photos", {"street": 2, "garden": 2})
    assert seen == [(done, 10) for done in range(1, 11)]


def test_held_back_photos_are_counted_once(tmp_path, recipe):
    make_mask_folder(tmp_path, count=10)
    report = check(load_recipe(recipe({"masks": masks(held_back=0.4)})), tmp_path)
    assert [split.split for split in report.splits] == ["train", "held_back"]
    assert sum(split.photos for split in report.splits) == 10


def test_each_problem_comes_with_its_fix(tmp_path, recipe):
    folder = make_mask_folder(tmp_path, count=8)
    images, annotations = folder / "images", folder / "annotations"
    save_mask(annotations / "000.png", np.full((8, 12), 9))
    save_mask(annotations / "001.png", np.full((8, 12), 9))
    save_mask(annotations / "002.png", np.zeros((9, 12)))
    (annotations / "003.png").unlink()
    (annotations / "004.png").write_bytes(b"no mask")
    (images / "005.png").write_bytes((images / "005.png").read_bytes()[:100])
    save_mask(annotations / "006.png", np.zeros((8, 12, 3)))
    labels = make_label_folder(tmp_path / "scenes", classes=("garden", "gardn"))
    (labels / "street").mkdir()
    report = check(load_recipe(recipe({"masks": masks(), "scenes": scenes()})), tmp_path)
    texts = {problem.text.split("train/")[1]: problem for problem in report.problems}

    def problem(start):
        return next(problem for text, problem in texts.items() if text.startswith(start))

    assert problem("annotations/000.png: value 9 is not mapped").count == 2
    assert "resize the mask" in problem("annotations/002.png: is 12 x 9").text
    assert "add it" in problem("images/003.png: has no mask").text
    assert "give a" in problem("annotations/004.png: not an image").text
    assert "export the file again" in problem("images/005.png: the image is damaged").text
    assert "one channel" in problem("annotations/006.png: is an image of mode RGB").text
    assert "map it" in problem("gardn: folder 'gardn' is not mapped").text
    assert "remove the folder" in problem("street: the class folder holds no photos").text
    assert len(report.problems) == 8
    assert all(problem.text.endswith(".") and "\n" not in problem.text for problem in report.problems)


def test_a_wrong_mapping_is_told_once_and_the_rest_is_scanned(tmp_path, recipe):
    make_mask_folder(tmp_path)
    make_mask_folder(tmp_path, "val")
    make_label_folder(tmp_path / "scenes")
    splits = {"train": "train", "val": "val"}
    wrong = masks(classes={"Sky": "skyy"}, splits=splits)
    report = check(load_recipe(recipe({"masks": wrong, "scenes": scenes()})), tmp_path)
    assert [problem.source for problem in report.problems] == ["masks"]
    assert "'sky'" in report.problems[0].text
    assert [split.source for split in report.splits] == ["scenes"]


def test_missing_folders_are_said_and_matter_only_to_training(tmp_path, recipe):
    make_mask_folder(tmp_path)
    both = {"masks": masks(), "scenes": scenes()}
    report = check(load_recipe(recipe(both)), tmp_path)
    assert report.ok and "scenes/set/train: no such folder" in report.missing[0]
    report = check(load_recipe(recipe(both, trained=["masks", "scenes"])), tmp_path)
    assert [problem.source for problem in report.problems] == ["scenes"]
    with pytest.raises(UpernetError, match="no such folder"):
        check(load_recipe(recipe(both)), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UpernetError, match="holds none of the folders"):
        check(load_recipe(recipe(both)), tmp_path / "empty")


def test_command_line(tmp_path, recipe):
    make_mask_folder(tmp_path)
    path = recipe({"masks": masks()})
    arguments = ["check", str(path), "--data", str(tmp_path), "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "masks" in result.output and "no problems" in result.output
    assert re.search(r"\nmasks, train, object:\n  Of the labeled pixels: \w+ [\d.]+ %", result.output)
    assert max(map(len, result.output.splitlines())) <= 80
    assert json.loads((tmp_path / "out.json").read_text())["ok"] is True
    save_mask(tmp_path / "set" / "train" / "annotations" / "000.png", np.full((8, 12), 9))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "value 9" in result.output and "1 problem" in result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["ok"] is False and report["problems"][0]["file"].endswith("000.png")


def test_names_of_files_do_not_control_the_terminal(tmp_path, recipe):
    make_mask_folder(tmp_path)
    folder = tmp_path / "set" / "train"
    photo = min((folder / "images").iterdir())
    photo.rename(photo.with_name("\x1b[31mred\n" + photo.suffix))
    path = recipe({"masks": masks()})
    result = CliRunner().invoke(app, ["check", str(path), "--data", str(tmp_path)])
    assert result.exit_code == 1 and "\x1b" not in result.output
    assert r"\x1b[31mred\n" in result.output.replace("\n", "")
