"""Tests of `upernet discover`: from photos to relations, as a user would."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.color_checkpoint import beach_photo
from helpers.command_line import Run
from PIL import Image


@pytest.fixture
def parses(tmp_path: Path, parse: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parse three photos of a beach with the command line."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        photo = np.roll(beach_photo(), 8 * number, axis=1)
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    assert parse("0.png", "1.png", "2.png", "--save", "labels", "--quiet").status == 0
    return tmp_path / "parses"


@pytest.mark.slow
def test_from_photos_to_relations(parses: Path, run: Run):
    result = run("discover", "parses", "--out", "out")
    assert result.status == 0 and result.stderr == ""
    assert "relations in 3 photos." in result.stdout and "Wrote out/relations.csv" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if not line.startswith("Wrote"))
    with open("out/relations.csv", newline="") as file:
        rows = {(row["pair"], row["a"], row["b"]): row for row in csv.DictReader(file)}
    assert rows["scene-object", "beach", "sky"]["support"] == "3"
    assert {path.name for path in Path("out").iterdir()} >= {"relations.graphml", "report.html", "counts.sqlite"}
    again = run("discover", "parses", "--out", "other", "--save", "csv", "--json")
    assert json.loads(again.stdout)["counted"] == 3
    assert Path("out/relations.csv").read_bytes() == Path("other/relations.csv").read_bytes()
    assert not Path("other/report.html").exists()


@pytest.mark.slow
def test_exit_status_says_whether_all_parses_were_counted(parses: Path, run: Run):
    (parses / "1" / "object.png").write_bytes(b"broken")
    result = run("discover", "parses", "--out", "out", "--min-support", 2, "--quiet")
    assert result.status == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("upernet: ") and "object.png" in line and line.endswith(".")
    for folder in parses.glob("?"):
        (folder / "object.png").write_bytes(b"broken")
        (folder / "parse.json").touch()
    result = run("discover", "parses", "--out", "out")
    assert result.status == 2 and "none of the 3 parses can be counted" in result.stderr
    assert run("discover", "missing", "--out", "out").status == 2
    assert run("discover", "parses", "--out", "out", "--save", "pdf").status == 2
