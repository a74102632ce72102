"""Tests of `upernet taxonomy` and `upernet parse --as`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.color_checkpoint import beach_photo
from helpers.command_line import Run
from PIL import Image

from upernet import load_taxonomy


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_show_lists_taxonomies_and_classes(run: Run):
    result = run("taxonomy", "show")
    assert result.status == 0 and "camvid: " in result.stdout and "(11 objects)" in result.stdout
    result = run("taxonomy", "show", "broden", "--level", "part")
    assert "part (152 classes, and the background -):" in result.stdout and "    sky: cloud" in result.stdout
    assert "scene (" not in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    content = json.loads(run("taxonomy", "show", "camvid", "--json").stdout)
    assert content == load_taxonomy("camvid").to_dict()
    assert {each["name"] for each in json.loads(run("taxonomy", "show", "--json").stdout)} >= {"camvid", "broden"}


def test_map_shows_and_writes_a_table_that_can_be_edited(run: Run, place: Path):
    result = run("taxonomy", "map", "camvid", "ade20k150", "--out", "table.csv")
    assert result.status == 0
    assert "object: 11 of 11 classes (7 by name, 3 by synonym, 1 to a broader class)" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    table = place / "table.csv"
    table.write_text(table.read_text().replace("bicyclist,person", "bicyclist,bicycle"))
    content = json.loads(run("taxonomy", "map", "camvid", "ade20k150", "--table", "table.csv", "--json").stdout)
    assert content["object"][-1] == {"class": "bicyclist", "to": "bicycle", "how": "table"}
    again = run("taxonomy", "map", "camvid", "ade20k150", "--out", "table.csv")
    assert again.status == 2 and "exists already" in again.stderr


def test_merge_writes_a_taxonomy(run: Run):
    result = run("taxonomy", "merge", "camvid", "ade20k150", "--out", "both.yaml")
    assert result.status == 0 and "(151 objects)" in result.stdout
    merged = load_taxonomy("both.yaml")
    assert merged.name == "both" and merged.level("object").names[:3] == ("sky", "building", "pole")
    assert run("taxonomy", "merge", "camvid", "ade20k150", "--out", "both.yaml").status == 2
    assert run("taxonomy", "merge", "camvid", "--out", "x.yaml").status == 2
    assert run("taxonomy", "merge", "camvid", "ade20k150", "--out", "both.txt").status == 2


@pytest.mark.slow
def test_parse_as_another_taxonomy(parse: Run, place: Path):
    Image.fromarray(beach_photo()).save("beach.png")
    own = json.loads(parse("beach.png", "--json").stdout)["parses"][0]
    shown = json.loads(parse("beach.png", "--as", "ade20k150", "--json").stdout)["parses"][0]
    assert "scene" not in shown and shown["model"] == "colors (as ade20k150)"
    assert shown["object"]["shares"] == own["object"]["shares"] and len(shown["object"]["names"]) == 150
    (place / "table.csv").write_text("level,class,to\nobject,person,animal\nobject,sky,\n")
    result = parse("beach.png", "--as", "ade20k150", "--table", "table.csv", "--out", "out")
    assert result.status == 0 and "animal" in result.stdout and "sky" not in result.stdout
    with Image.open("out/beach/object.png") as labels:
        assert set(labels.tobytes()) == {4, 126, 255}  # tree, animal, unsure
    assert parse("beach.png", "--table", "table.csv").status == 2
    assert parse("beach.png", "--as", "unknown").status == 2
