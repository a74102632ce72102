"""Tests of `upernet data prepare`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.command_line import Run
from PIL import Image


def make_benchmark(folder: Path) -> None:
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        Image.new("RGB", (12, 8)).save(folder / "images" / split / f"{name}.jpg")
        mask = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12))
        mask.save(folder / "annotations" / split / f"{name}.png")


def test_prepare_then_check(tmp_path: Path, run: Run) -> None:
    make_benchmark(tmp_path / "download")
    for new in (1, 0):
        result = run("data", "prepare", "ade20k", tmp_path / "data", "--from", tmp_path / "download")
        assert result.status == 0 and not result.stderr.strip()
        assert result.stdout.splitlines() == [
            f"training: 1 photos, {new} of them new",
            f"validation: 1 photos, {new} of them new",
            f"Wrote {tmp_path / 'data' / 'ade20k'}, from the MIT Scene Parsing Benchmark; "
            f"pass --data {tmp_path / 'data'}",
        ]
    for name in ("t_512", "h_896"):
        recipe = f"upernet_internimage_{name}_160k_ade20k"
        result = run("data", "check", recipe, "--data", tmp_path / "data")
        assert result.status == 0 and "no problems" in result.stdout


def test_the_full_data_set_is_said_to_differ(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "images" / "ADE" / "validation" / "home_or_hotel" / "attic"
    folder.mkdir(parents=True)
    for name in ("ADE_val_00000009.jpg", "ADE_val_00000009_seg.png"):
        Image.new("RGB", (12, 8)).save(folder / name)
    result = run("data", "prepare", "ade20k", tmp_path / "data", "--from", tmp_path)
    assert result.status == 0
    assert "from the full ADE20K" in result.stdout and "scores are not quite comparable" in result.stdout


def test_mistakes_are_one_sentence(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    make_benchmark(tmp_path / "download")
    for arguments, complaint in (
        (["ade20k", tmp_path / "data"], "give the archive by --from"),
        (["ade20k", tmp_path / "data", "--from", tmp_path / "none.zip"], "none.zip: no such file"),
        (["ade20k", tmp_path / "data", "--from", tmp_path / "file"], "file: is not a zip archive"),
        (["ade20k", tmp_path / "file", "--from", tmp_path / "download"], "cannot be written"),
    ):
        result = run("data", "prepare", *arguments)
        assert result.status == 2 and complaint in result.stderr and not result.stdout
        lines = [line for line in result.stderr.splitlines() if line]
        assert len(lines) == 1 and lines[0].startswith("upernet: ") and lines[0].endswith(".")
    assert not (tmp_path / "data").exists()
    assert run("data", "prepare", "coco", tmp_path).status == 2
