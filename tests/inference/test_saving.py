"""Tests of upernet.inference.saving: folders of parses that appear, and change, as a whole, even if a process dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.painted_network import TAXONOMY, four_quarters
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import LabelMap, Parse
from upernet.inference.saving import hidden_folder, remove_leftovers


def parse_of(path: str | None = "p0.jpg", levels: tuple[str, ...] = ("object", "material"), **options: float) -> Parse:
    maps = {}
    for level in levels:
        classes = TAXONOMY.levels[level]
        confidence = np.full((64, 96), options.get("confidence", 0.8), np.float32)
        labels = (four_quarters() % 2).astype(np.int16)
        maps[level] = LabelMap(level, labels, confidence, classes.names, classes.colors, classes.background)
    rankings = {"scene": [("street", options.get("probability", 0.7)), ("park", 0.3)]}
    return Parse(
        Image.new("RGB", (96, 64)), maps, rankings, thresholds={"object": options.get("threshold", 0.5)}, path=path
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fewer_levels_leave_no_file_of_the_earlier_parse(tmp_path: Path) -> None:
    folder = parse_of().save(tmp_path)
    (folder / "notes.txt").write_text("of the user")
    assert parse_of(levels=("object",)).save(tmp_path) == folder
    assert names(folder) == {
        *("object.png", "object_confidence.png", "object_overlay.png", "sheet.jpg", "parse.json", "notes.txt")
    }
    assert (folder / "notes.txt").read_text() == "of the user"


@pytest.mark.parametrize(
    ("kinds", "files"),
    [
        (["sheet"], {"sheet.jpg"}),
        (["labels", "json"], {"object.png", "material.png"}),
        (
            ["overlay", "confidence"],
            {f"{n}_{k}.png" for n in ("object", "material") for k in ("overlay", "confidence")},
        ),
        (["json"], set()),
        ("sheet", {"sheet.jpg"}),
        ([], set()),
    ],
)
def test_what_is_saved(tmp_path: Path, kinds: list[str] | str, files: set[str]) -> None:
    parse_of().save(tmp_path)
    folder = parse_of().save(tmp_path, kinds=kinds)
    assert folder.name == "p0" and names(folder) == {"parse.json", *files}


def test_overlays_are_plain_if_the_weight_of_the_colors_is_given(tmp_path: Path) -> None:
    parse = parse_of()
    with Image.open(parse.save(tmp_path, kinds=["overlay"], alpha=0.5) / "object_overlay.png") as plain:
        assert plain.size == parse.photo.size
        np.testing.assert_array_equal(np.asarray(plain), np.asarray(parse.overlay("object", 0.5)))
    with pytest.raises(UpernetError, match="give a number from 0"):
        parse.save(tmp_path, kinds=["overlay"], alpha=2)


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match=r"'labels\.png' cannot be saved; choose from sheet, overlay, labels"):
        parse_of().save(tmp_path, kinds=["labels.png"])
    assert not names(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["confidence", "probability", "threshold"])
def test_numbers_that_json_does_not_have_are_null(tmp_path: Path, name: str, value: float) -> None:
    parse = parse_of("p0.jpg", ("object", "material"), **{name: value})
    if name != "confidence":  # no confidence that a PNG can hold, either
        text = (parse.save(tmp_path) / "parse.json").read_text()
    else:
        text = (parse.save(tmp_path, kinds=["json"]) / "parse.json").read_text()
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    found = {
        "confidence": content["object"]["mean_confidence"],
        "probability": content["scene"]["ranked"][0]["probability"],
        "threshold": content["object"]["threshold"],
    }
    assert found[name] is None and sum(value is None for value in found.values()) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_saving import parse_of
from upernet.inference import render

class Killing(tuple):
    def __getitem__(self, index):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

parse = parse_of()
parse.maps["material"].__dict__["colors"] = Killing()
parse.save(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL here")
def test_a_killed_process_leaves_nothing_that_the_next_one_keeps(tmp_path: Path) -> None:
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(here), str(here.parent), str(here.parents[1] / "src")]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".upernet-") and "object.png" in names(leftover)
    remove_leftovers(tmp_path)
    assert not names(tmp_path)
    assert parse_of().save(tmp_path).name == "p0"


def test_hidden_folders_of_running_processes_stay(tmp_path: Path) -> None:
    with hidden_folder(tmp_path) as mine:
        others = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
        elsewhere = mine.with_name(f".upernet-00000000-{2**22 + 5}-abcdef00")
        user = tmp_path / ".upernet-notes"
        for folder in (others, elsewhere, user):
            folder.mkdir()
        remove_leftovers(tmp_path)
        assert names(tmp_path) == {mine.name, others.name, elsewhere.name, user.name}
        os.utime(elsewhere, (0, 0))  # a process of another machine, long ago
        os.utime(mine, (0, 0))  # an earlier container, in which the process had the same number
        remove_leftovers(tmp_path)
        assert names(tmp_path) == {others.name, user.name}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "p0").mkdir()
    assert parse_of().save(tmp_path).name == "p0"


def test_a_named_folder_must_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "frame").write_text("mine")
    with pytest.raises(UpernetError, match="frame: is a file, not a folder"):
        parse_of().save(tmp_path, "frame")
    assert (tmp_path / "frame").read_text() == "mine" and names(tmp_path) == {"frame"}


@pytest.mark.skipif(os.name == "nt", reason="no umask here")
def test_folders_have_the_usual_permissions(tmp_path: Path) -> None:
    folder = parse_of().save(tmp_path / "out", kinds=["json"])
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    assert (folder / "parse.json").stat().st_mode & 0o777 == 0o666 & ~umask
