"""Tests of `upernet data prepare broden`."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.broden import make_ade_2021, make_dtd, make_opensurfaces
from helpers.command_line import Run


def test_prepare_then_check(tmp_path: Path, run: Run) -> None:
    ade, out = make_ade_2021(tmp_path), tmp_path / "out"
    arguments = ("data", "prepare", "broden", out, "--ade20k", ade, "--dtd", make_dtd(tmp_path), "--workers", "1")
    result = run(*arguments, "--dry-run")
    assert result.status == 0 and not out.exists()
    assert "ade20k: 2 photos to train on, 2 to validate on" in result.stdout and "would take about" in result.stdout
    for new in (8, 0):
        result = run(*arguments)
        assert result.status == 0 and not result.stderr.strip()
        assert "object: 3 of 335 classes occur" in result.stdout and f"{new} photos new" in result.stdout
        assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(tmp_path) not in line)
    result = run("data", "check", out / "recipe.yaml")
    assert result.status == 0 and "no problems" in result.stdout


def test_what_is_missing_or_damaged_gives_another_status(tmp_path: Path, run: Run) -> None:
    ade, out = make_ade_2021(tmp_path), tmp_path / "out"
    mask = ade / "images" / "ADE" / "training" / "urban" / "street" / "ADE_train_00000001_seg.png"
    mask.write_bytes(mask.read_bytes()[:50])
    arguments = ("data", "prepare", "broden", out, "--ade20k", ade, "--workers", "1")
    result = run(*arguments)
    assert result.status == 1 and "flaws: 1 damaged" in result.stdout and mask.name in result.stdout
    result = run(*arguments, "--json", "-")
    report = json.loads(result.stdout)
    assert result.status == 1 and report["counts"] == {"damaged": 1} and report["photos"]["ade20k"]["train"] == 1
    result = run("data", "prepare", "broden", tmp_path / "other", "--ade20k", ade, "--refuse", "damaged")
    assert result.status == 2 and "(damaged photos are refused by --refuse)." in result.stderr


def test_photos_without_a_material_are_no_failure(tmp_path: Path, run: Run) -> None:
    result = run("data", "prepare", "broden", tmp_path / "out", "--opensurfaces", make_opensurfaces(tmp_path))
    assert result.status == 0 and "flaws: 1 unannotated" in result.stdout


def test_mistakes_are_one_sentence(tmp_path: Path, run: Run) -> None:
    ade = make_ade_2021(tmp_path)
    for arguments, complaint in (
        ((), "no data set is given; give at least one of --ade20k"),
        (("--ade20k", tmp_path / "none"), "none: no such folder; give --ade20k"),
        (("--dtd", ade), "no images/TEXTURE/*.jpg in there"),
        (("--ade20k", ade, "--refuse", "damage"), "(did you mean 'damaged'?)"),
        (("--ade20k", ade, "--min-photos", "3"), "give --labels counted, too"),
        (("--ade20k", ade, "--taxonomy", "everyday"), "--taxonomy goes with a file of --labels"),
        (("--ade20k", ade, "--labels", tmp_path / "none.yaml"), "no such file; give published, counted or a file."),
        (("--ade20k", ade, "--labels", "publish"), "(did you mean 'published'?)"),
        (("--ade20k", ade, "--lists", tmp_path), "give the folder meta_file"),
    ):
        result = run("data", "prepare", "broden", tmp_path / "out", *arguments)
        assert result.status == 2 and complaint in result.stderr and not result.stdout, arguments
        lines = [line for line in result.stderr.splitlines() if line]
        assert len(lines) == 1 and lines[0].startswith("upernet: ") and lines[0].endswith(".")
    assert not (tmp_path / "out").exists()
