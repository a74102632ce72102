"""Tests of upernet.data.prepare.broden: ade20k, ade20k_index, matlab."""

from __future__ import annotations

import json
import pickle
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.broden import (
    ADE_NAMES,
    PERSON,
    RIGHT_ARM,
    SKY,
    WALL,
    ade_photo,
    make_ade_2016,
    make_ade_2021,
    write_index_mat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.data.prepare.broden.ade20k import Ade20k, scene_keys
from upernet.data.prepare.broden.ade20k_index import read_index
from upernet.data.prepare.broden.matlab import read_matlab
from upernet.errors import UpernetError


def pickled(path: Path, photos: list[str]) -> Path:
    """Write an index as the release of 2021 has it: lists, and numpy arrays that are never looked at."""
    names = [ADE_NAMES.get(number, f"class {number}") for number in range(1, max(ADE_NAMES) + 1)]
    values = {
        "filename": photos,
        "folder": ["ADE20K_2021_17_01/images/ADE/training/urban/street"] * len(photos),
        "objectnames": names,
        "objectPresence": np.ones((len(names), len(photos))),
    }
    path.write_bytes(pickle.dumps(values))
    return path


def test_the_release_of_2016(tmp_path):
    reader = Ade20k(make_ade_2016(tmp_path, missing=["ADE_train_00000002", "ADE_train_00000003"]))
    items, flaws = reader.find()
    assert [(item.name, item.split, item.row) for item in items] == [
        ("ADE_train_00000001", "train", 0),
        ("ADE_val_00000001", "val", 3),
    ]
    assert items[0].names == {"scene": "c/church/indoor"} and set(items[0].files) == {"object", "part"}
    maps = reader.read(items[0])
    assert set(np.unique(maps["object"])) == {WALL, PERSON} and set(np.unique(maps["part"])) == {0, RIGHT_ARM}
    assert reader.title(items[0], "object", PERSON) == ADE_NAMES[PERSON]
    assert [(flaw.kind, flaw.name) for flaw in flaws] == [("incomplete", "")]
    assert "2 of 4 photos of the index are missing, first ADE_train_00000002" in flaws[0].text


def test_the_release_of_2021(tmp_path):
    folder = make_ade_2021(tmp_path)
    reader = Ade20k(tmp_path)  # the folder above is fine, too
    items, flaws = reader.find()
    assert len(items) == 4 and not flaws and {item.row for item in items} == {-1}
    assert reader.title(items[0], "object", PERSON) == ADE_NAMES[PERSON]  # from the JSON file of the photo
    (items[0].photo.with_suffix(".json")).write_text("{ no JSON")
    assert reader.title(items[0], "object", PERSON) == str(PERSON)
    pickled(folder / "index_ade20k.pkl", ["ADE_val_00000002.jpg", *(f"{item.name}.jpg" for item in items[:3])])
    items, flaws = Ade20k(folder).find()
    assert [item.row for item in items] == [1, 2, 3, 0] and not flaws


def test_scenes_by_the_list_of_the_benchmark(tmp_path):
    folder = make_ade_2016(tmp_path, index=False)
    (folder / "sceneCategories.txt").write_text("ADE_train_00000001 kitchen\nADE_val_00000001 misc\n")
    items, _ = Ade20k(folder).find()
    assert [item.names["scene"] for item in items] == ["kitchen", "misc"]


@pytest.mark.parametrize(
    ("folder", "key"),
    [
        ("c/church/indoor", "church_indoor"),
        ("urban/street", "street"),
        ("urban/apartment_building__outdoor", "apartment_building_outdoor"),
        ("a/art gallery", "art_gallery"),
    ],
)
def test_a_scene_is_found_by_its_folders(folder, key):
    assert key in scene_keys(folder)


def test_two_releases_in_one_folder_are_refused(tmp_path):
    make_ade_2016(tmp_path)
    make_ade_2021(tmp_path)
    with pytest.raises(UpernetError, match="give --ade20k the folder of one release"):
        Ade20k(tmp_path).find()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UpernetError, match="empty: no ADE20K in there"):
        Ade20k(tmp_path / "empty").find()
    with pytest.raises(UpernetError, match="none: no such folder; give --ade20k"):
        Ade20k(tmp_path / "none").find()


def test_both_indices_say_the_same(tmp_path):
    photos = [f"ADE_train_0000000{number}.jpg" for number in range(1, 4)]
    write_index_mat(tmp_path / "index_ade20k.mat", photos)
    assert read_index(tmp_path / "index_ade20k.mat") == read_index(pickled(tmp_path / "index_ade20k.pkl", photos))
    one = tmp_path / "one.mat"
    write_index_mat(one, photos[:1])
    assert read_index(one).photos == ("ADE_train_00000001",)


def test_an_index_in_json_and_a_class_without_a_name(tmp_path):
    values = {"filename": ["a.jpg", "b.jpg"], "objectnames": ["wall", "", "sky"]}
    (tmp_path / "index_ade20k.json").write_text(json.dumps(values))
    index = read_index(tmp_path / "index_ade20k.json")
    assert index.photos == ("a", "b") and index.names == {1: "wall", 2: "", 3: "sky"}
    write_index_mat(tmp_path / "index_ade20k.mat", ["a.jpg", "b.jpg"], {1: "wall", 2: "", 3: "sky"})
    assert read_index(tmp_path / "index_ade20k.mat") == index
    for damaged in ("", "{", "[]", '{"filename": 3, "objectnames": []}', "[" * 100_000):
        (tmp_path / "index_ade20k.json").write_text(damaged)
        assert complaint(tmp_path / "index_ade20k.json").endswith("take it from the archive again.")


def test_the_folder_of_a_split_and_links(tmp_path):
    folder = make_ade_2021(tmp_path)
    items, _ = Ade20k(folder / "images" / "ADE" / "validation").find()
    assert [(item.name, item.split) for item in items] == [("ADE_val_00000001", "val"), ("ADE_val_00000002", "val")]
    assert items[0].names == {"scene": "urban/street"}
    (tmp_path / "disk").mkdir()
    (folder / "images").rename(tmp_path / "disk" / "images")
    (folder / "images").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "disk" / "images" / "again").symlink_to(tmp_path / "disk")  # a circle
    assert len(Ade20k(folder).find()[0]) == 4


def test_names_in_arrays_of_numpy(tmp_path):
    values = {"filename": np.array(["a.jpg", "b.jpg"], dtype=object), "objectnames": ["wall"]}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "index.pkl").write_bytes(pickle.dumps(values, protocol))
        assert read_index(tmp_path / "index.pkl").photos == ("a", "b")


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_runs_nothing(tmp_path):
    values = {"filename": [_Touch(tmp_path / "touched")], "objectnames": ["wall"]}
    (tmp_path / "index.pkl").write_bytes(pickle.dumps(values))
    with pytest.raises(UpernetError, match=r"index\.pkl: is not the index of ADE20K"):
        read_index(tmp_path / "index.pkl")
    assert not (tmp_path / "touched").exists()
    pickle.loads((tmp_path / "index.pkl").read_bytes())  # it would have
    assert (tmp_path / "touched").exists()


def complaint(path: Path) -> str:
    """Return what reading an index says; empty: it can be read."""
    try:
        read_index(path)
    except UpernetError as error:
        return str(error)
    return ""


WHOLE = pickle.dumps({"filename": ["a.jpg"], "objectnames": ["wall"], "rest": np.zeros(5)})


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_pickle_is_one_sentence(tmp_path_factory, data):
    content = bytearray(WHOLE[: data.draw(st.integers(0, len(WHOLE)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pickle") / "index.pkl"
    path.write_bytes(content)
    text = complaint(path)
    assert not text or (text.startswith(f"{path}: is ") and text.endswith("take it from the archive again."))


def test_a_damaged_matlab_file_is_one_sentence(tmp_path):
    path = tmp_path / "index_ade20k.mat"
    write_index_mat(path, ["a.jpg"])
    content = path.read_bytes()
    for damaged in (b"", content[:100], content[:300], content[:200] + bytes(100) + content[300:], b"<html></html>"):
        path.write_bytes(damaged)
        with pytest.raises(UpernetError, match=r"index_ade20k\.mat: .*\.$"):
            read_index(path)


def test_photos_are_read_without_a_damaged_index(tmp_path, monkeypatch):
    folder = make_ade_2016(tmp_path)
    (folder / "index_ade20k.pkl").write_bytes(b"no pickle")  # it is preferred to the MATLAB file
    items, flaws = Ade20k(folder).find()
    assert len(items) == 2 and [(flaw.kind, flaw.name) for flaw in flaws] == [("damaged", "")]
    (folder / "index_ade20k.pkl").unlink()
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    items, flaws = Ade20k(folder).find()
    assert len(items) == 2 and flaws[0].text.endswith("MATLAB files need scipy; run: pip install 'upernet[matlab]'.")


def test_a_matlab_file_that_grows_is_not_unpacked(tmp_path):
    bomb = zlib.compress(bytes(2**24), 9)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    path = tmp_path / "index_ade20k.mat"
    path.write_bytes(header + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(UpernetError, match="would unpack to more than 1,048,576 bytes"):
        read_matlab(path, "index", 2**20)


def test_a_matlab_file_of_version_7_3_is_refused(tmp_path):
    path = tmp_path / "index_ade20k.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UpernetError, match=r"is a MATLAB 7\.3 file"):
        read_matlab(path, "index")


def test_a_photo_that_is_no_longer_there(tmp_path):
    place = tmp_path / "images" / "training" / "s" / "street"
    ade_photo(place, "ADE_train_00000001", [SKY])
    (place / "ADE_train_00000001_seg.png").unlink()
    items, flaws = Ade20k(tmp_path).find()
    assert not items and [flaw.kind for flaw in flaws] == ["unannotated"]
