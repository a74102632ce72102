"""Tests of data folders that nobody would make on purpose: pipes, odd names, numbers without end, narrow photos."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.folders import TAXONOMY, make_mask_folder, save_mask, save_photo, source_spec
from torchvision import tv_tensors
from typer.testing import CliRunner

from upernet.checkpoints.finding import find_checkpoint
from upernet.checkpoints.reading import read_weights
from upernet.cli.data import app
from upernet.data.images import read_image
from upernet.data.sample import Sample
from upernet.data.sources import SourceMissing, mapping, open_source, table
from upernet.data.sources.lists import read_list
from upernet.data.sources.mapping import read_label_names
from upernet.data.sources.table import read_table
from upernet.data.transforms import resize
from upernet.errors import UpernetError
from upernet.files import read_limited
from upernet.recipe import Resize


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("t.csv", lambda path: read_table(path, ["label"])),
        ("t.jsonl", lambda path: read_table(path, ["label"])),
        ("list.txt", read_list),
        ("model.safetensors", read_weights),
        ("model.pth", find_checkpoint),
        ("photo.jpg", read_image),
    ],
)
def test_pipes_are_refused_without_waiting(tmp_path: Path, name: str, read) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UpernetError, match=r"is a pipe or a device, not a file"):
        read(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
def test_devices_are_refused() -> None:
    for read in (read_list, read_weights, find_checkpoint, read_image):
        with pytest.raises(UpernetError, match=r"/dev/zero: is a pipe or a device, not a file"):
            read(Path("/dev/zero"))


def test_files_of_text_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("file,label\n" + "x" * 100)
    assert len(read_limited(tmp_path / "t.csv", 111)) == 111
    monkeypatch.setattr(table, "MAX_BYTES", 110)
    with pytest.raises(UpernetError, match=r"t\.csv: has more than 110 bytes"):
        read_table(tmp_path / "t.csv", ["label"])


@pytest.mark.parametrize("number", ["9" * 5000, "65536", "-1", "\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT THREE}"])
def test_numbers_that_no_mask_has(tmp_path: Path, number: str) -> None:
    (tmp_path / "labels.txt").write_text(f"0\tsky\n{number}\troad\n", encoding="utf-8")
    with pytest.raises(UpernetError) as caught:
        read_label_names([tmp_path])
    assert "labels.txt:2: expected a number, a tab and a class name" in str(caught.value)
    assert len(str(caught.value)) < 400
    make_mask_folder(tmp_path)
    with pytest.raises(UpernetError, match="the source has no class"):
        open_source("mine", source_spec(classes={number[:200]: "sky"}), TAXONOMY, tmp_path, "train")


def test_a_name_without_end(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0\t" + "x" * 10**6)
    with pytest.raises(UpernetError) as caught:
        read_label_names([tmp_path])
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_many_names_are_read_in_linear_time(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"{value}\tclass {value}\n" for value in range(mapping.MAX_VALUE + 1)))
    assert len(read_label_names([tmp_path])) == 65536


@pytest.mark.parametrize("path", ["x" * 300 + "/{split}", "a/" * 1500 + "{split}", "{split}/{x}", "~nobody/{split}"])
def test_folders_that_cannot_be_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(SourceMissing, match="no such folder"):
        open_source("mine", source_spec(path=path), TAXONOMY, tmp_path, "train")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not text")
def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = make_mask_folder(tmp_path, count=4)
    odd = os.fsdecode(b"\xff.png")
    save_photo(folder / "images" / "odd.png")
    (folder / "images" / "odd.png").rename(folder / "images" / odd)
    save_mask(folder / "annotations" / "odd.png", np.full((8, 12), 9))
    (folder / "annotations" / "odd.png").rename(folder / "annotations" / odd)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TAXONOMY.to_dict()))
    source = {"kind": "mask_folder", "path": "set/{split}", "level": "object", "splits": {"train": "train"}}
    recipe = {"description": "t", "taxonomy": "tiny.yaml", "model": {"backbone": "resnet18"}}
    recipe["sources"] = {"masks": source | {"held_back": 0.3}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["check", str(tmp_path / "r.yaml"), "--data", str(tmp_path), "--json", str(tmp_path / "report.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.exception
    (problem,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["problems"]
    assert problem["file"].endswith(odd)


def test_a_narrow_photo_is_not_enlarged_without_limit() -> None:
    photo = Sample(tv_tensors.Image(torch.zeros(3, 1, 100_000, dtype=torch.uint8)), {}, {}, frozenset(), "line.png")
    with pytest.raises(UpernetError, match=r"line\.png: would be enlarged from 100000 x 1 to 51200000 x 512 pixels"):
        resize(photo, Resize(short_side=512))
    assert resize(photo, Resize(short_side=512, long_side=2048)).image.shape == (3, 1, 2048)
