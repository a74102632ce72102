"""Tests of upernet.data.sources: label_table and table, with columns of masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.folders import TAXONOMY, save_mask, save_photo, source_spec

from upernet.data.sources import Source, SourceMissing, open_source
from upernet.errors import UpernetError
from upernet.taxonomy import IGNORE

ANNOTATIONS = {"scene": {"column": "scene"}, "object": {"masks": "object_mask"}, "part": {"masks": "part_mask"}}


def make_table(root: Path, split: str = "train") -> Path:
    """Make three photos: one with all levels, one with objects only, one with a scene only."""
    folder = root / "set"
    for number in range(3):
        save_photo(folder / "photos" / f"{number}.jpg", seed=number)
    objects = np.full((8, 12), 3)
    objects[:, :6] = 255
    save_mask(folder / "object" / "mine" / "0.png", objects)
    save_mask(folder / "object" / "mine" / "1.png", np.full((8, 12), 1))
    save_mask(folder / "part" / "0.png", np.full((8, 12), 1))
    (folder / "object" / "labels.txt").write_text("0\tsky\n1\troad\n2\ttree\n3\tperson\n")
    (folder / "part" / "labels.txt").write_text("0\tbackground\n1\thair\n2\thand\n")
    rows = [
        {"file": "photos/0.jpg", "scene": "street", "object_mask": "object/mine/0.png", "part_mask": "part/0.png"},
        {"file": "photos/1.jpg", "scene": None, "object_mask": "object/mine/1.png", "part_mask": None},
        {"file": "photos/2.jpg", "scene": "garden", "object_mask": "", "part_mask": None},
    ]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def open_table(root: Path, split: str = "train", **settings: Any) -> Source:
    annotations = {**ANNOTATIONS, "part": {"masks": "part_mask", "classes": {"background": "-"}}}
    values = {"path": "set", "table": "{split}.jsonl", "level": None, "annotations": annotations} | settings
    return open_source("table", source_spec(kind="label_table", **values), TAXONOMY, root, split)


def test_photos_have_any_of_the_levels(tmp_path):
    make_table(tmp_path)
    source = open_table(tmp_path)
    assert len(source) == 3 and source.annotated_levels == ("scene", "object", "part")
    person, hair = TAXONOMY.level("object").index("person"), TAXONOMY.level("part").index("hair")
    first, second, third = source
    assert first.maps["object"][0].tolist() == [IGNORE] * 6 + [person] * 6 and (first.maps["part"] == hair).all()
    assert first.labels == {"scene": TAXONOMY.level("scene").index("street")}
    assert (second.maps["part"] == IGNORE).all() and second.labels == {"scene": IGNORE}
    assert (third.maps["object"] == IGNORE).all() and third.labels != second.labels


def test_photos_without_any_of_the_levels_are_left_out(tmp_path):
    make_table(tmp_path)
    source = open_table(tmp_path, annotations={"object": {"masks": "object_mask"}})
    assert [photo.path.name for photo in source.photos] == ["0.jpg", "1.jpg"]
    source = open_table(tmp_path, annotations={"scene": {"column": "scene"}})
    assert [photo.path.name for photo in source.photos] == ["0.jpg", "2.jpg"]


def test_a_split_without_a_table_is_missing(tmp_path):
    make_table(tmp_path)
    with pytest.raises(SourceMissing, match=r"val\.jsonl: no such table, so source table has no val photos"):
        open_table(tmp_path, "val")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"object_mask": "object/mine/9.png"}, "there is no mask 'object/mine/9.png'"),
        ({"object_mask": "../outside.png"}, "outside the folder of the table"),
        ({"object_mask": "train.jsonl"}, "is not the name of a mask"),
    ],
)
def test_wrong_paths_of_masks(tmp_path, change, words):
    folder = make_table(tmp_path)
    lines = (folder / "train.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | change
    (folder / "train.jsonl").write_text("\n".join([lines[0], json.dumps(row), lines[2]]))
    with pytest.raises(UpernetError, match=rf"train\.jsonl:2: .*{words}"):
        open_table(tmp_path)


def test_a_class_is_not_ignored_silently(tmp_path):
    folder = make_table(tmp_path)
    names = (folder / "object" / "labels.txt").read_text()
    (folder / "object" / "labels.txt").write_text(names + "255\tdeck chair\n")
    with pytest.raises(UpernetError, match=r"object\.ignore: 255 is the class 'deck chair' .*write ignore: \[\]\.$"):
        open_table(tmp_path)


def test_masks_of_another_level_have_other_names(tmp_path):
    folder = make_table(tmp_path)
    save_mask(folder / "other" / "1.png", np.full((8, 12), 1))
    (folder / "other" / "labels.txt").write_text("1\ttree\n")
    text = (folder / "train.jsonl").read_text().replace("object/mine/1.png", "other/1.png")
    (folder / "train.jsonl").write_text(text)
    with pytest.raises(UpernetError, match=r"labels\.txt differs"):
        open_table(tmp_path)
