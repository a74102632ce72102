"""Tests of the commands while UPERNET_NO_RESEARCH_WEIGHTS is set."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import Result, Run
from PIL import Image

from upernet.checkpoints.terms import SWITCH

ON_ADE20K = "upernet_internimage_t_512_160k_ade20k"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of downloads, which is empty."""
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["everyday", "camvid"])
def test_parse_writes_nothing(run: Run, model: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    check(run("parse", tmp_path / "photo.png", "--model", model, "--out", out))
    assert not out.exists()


@pytest.mark.slow
def test_evaluate_and_convert(run: Run, tmp_path: Path) -> None:
    check(run("evaluate", "camvid", "--data", tmp_path))
    check(run("convert", "camvid", tmp_path / "converted"))
    assert not list(tmp_path.glob("converted*"))


@pytest.mark.parametrize("names", [[ON_ADE20K], ["internimage_t", ON_ADE20K], ["--all"]])
def test_download_checks_all_names_first(run: Run, names: list[str], folder: Path) -> None:
    check(run("download", *names))
    assert not folder.exists()


@pytest.mark.slow
def test_what_is_allowed_still_works(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    assert run("parse", tmp_path / "photo.png", "--model", checkpoint, "--out", tmp_path / "out").status == 0
    assert run("models").status == 0


def check(result: Result) -> None:
    """Check that a command refused weights with one sentence and status 2."""
    assert (result.status, result.stdout) == (2, "")
    assert f"research and non-commercial use only, which {SWITCH} refuses" in result.stderr
    assert len(result.stderr.splitlines()) == 1
