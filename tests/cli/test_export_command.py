"""Tests of `upernet export`, and of `upernet parse` with what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.color_checkpoint import save_color_recipe
from helpers.color_runs import SOURCES, save_color_data
from helpers.command_line import Run
from PIL import Image


@pytest.mark.slow
def test_a_model_is_exported_scored_and_parses(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "colors.pt2", tmp_path / "report.json"
    save_color_data(tmp_path / "data")
    save_color_recipe(tmp_path / "recipe.yaml", SOURCES)
    scoring = ("--data", tmp_path / "data", "--recipe", tmp_path / "recipe.yaml")
    result = run("export", checkpoint, "--to", "torch", "--out", out, "--json", report, *scoring)
    assert result.status == 0, result.stderr
    assert f"wrote {out}" in result.stdout and "object: differs from the model by" in result.stdout
    written = json.loads(report.read_text())
    assert written["format"] == "torch" and written["files"] == [str(out)] and written["errors"]["object"] <= 1e-4
    miou = (0.75 + 0.75 + 0) / 3  # the first, second and third photo are right in all, 3/4 and half of their rows
    assert written["scores"]["object"] == pytest.approx({"before": miou, "after": miou}, abs=0.02)
    assert written["scores"]["scene"] == {"before": 1.0, "after": 1.0}

    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(photo)
    for model, folder in ((checkpoint, "own"), (out, "exported")):
        result = run("parse", photo, "--model", model, "--out", tmp_path / folder, "--save", "labels", "--quiet")
        assert result.status == 0, result.stderr
    own, exported = (
        np.asarray(Image.open(tmp_path / folder / "photo" / "object.png")) for folder in ("own", "exported")
    )
    assert np.mean(own == exported) > 0.999


def test_the_default_file_is_named_after_the_model(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    taken = tmp_path / "colors.onnx"
    taken.write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = run("export", checkpoint)
    assert result.status == 2 and "colors.onnx: exists already" in result.stderr and taken.read_text() == "mine"


@pytest.mark.parametrize("model", ["model-1.5", ".", "{folder}/model-1.5"])
def test_the_default_file_is_named_after_the_folder(run: Run, checkpoint: Path, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "model-1.5"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(checkpoint.read_bytes())
    place = folder if model == "." else tmp_path
    taken = place / "model-1.5.onnx"
    taken.write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result = run("export", model.format(folder=tmp_path))
    assert result.status == 2 and "model-1.5.onnx: exists already" in result.stderr and taken.read_text() == "mine"


def test_an_empty_name(run: Run) -> None:
    result = run("export", "")
    assert result.status == 2 and result.stderr.startswith("upernet: unknown model ''")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--opset", 99), "opset 99 cannot be written; choose one from 18 to 23."),
        (("--precision", "int8"), "give a folder with --calibration."),
        (("--out", "model.tflite"), "the name of the file must end with"),
        (("--out", "model.xml", "--to", "onnx"), "the name of the file must end with .onnx for onnx."),
    ],
)
def test_options_that_do_not_fit(
    run: Run, checkpoint: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = run("export", checkpoint, *arguments)
    assert result.status == 2 and message in result.stderr and not list(tmp_path.iterdir())


def test_parsing_with_an_exported_file_names_what_does_not_fit(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no network")
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    result = run("parse", tmp_path / "photo.png", "--model", tmp_path / "model.onnx", "--out", tmp_path / "out")
    assert result.status == 2 and "onnxruntime cannot load it" in result.stderr and "Traceback" not in result.stderr
