"""Tests of where photos and masks of a source may be: folders, names, lists of splits, and symbolic links.

Modules: upernet.data.sources, upernet.data.sources.lists, upernet.data.sources.links.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.folders import TAXONOMY, make_label_folder, make_mask_folder, save_mask, save_photo, source_spec
from hypothesis import given
from hypothesis import strategies as st

from upernet.data.sources import SourceMissing, open_source
from upernet.data.sources.mask_folder import common_name
from upernet.errors import UpernetError

CLASSES = {"1": "road", "2": "tree"}


def open_split(root: Path, split: str = "train", **settings):
    return open_source("mine", source_spec(**{"classes": CLASSES, **settings}), TAXONOMY, root, split)


def names(root: Path, split: str = "train", **settings) -> list[tuple[str, str]]:
    """Return the photos and masks of a split, relative to `root`; each mask must be readable."""
    source = open_split(root, split, **settings)
    for sample in source:
        assert sample.maps["object"].shape == (8, 12)
    return [
        (photo.path.relative_to(root).as_posix(), photo.masks["object"].relative_to(root).as_posix())
        for photo in source.photos
    ]


def fill(root: Path, photos: str, masks: str, *stems: str) -> None:
    for number, stem in enumerate(stems):
        save_photo(root / photos.format(stem), seed=number)
        save_mask(root / masks.format(stem), np.full((8, 12), 1 + number % 2))


def test_folders_of_any_name(tmp_path):
    fill(tmp_path, "VOC/JPEGImages/{}.jpg", "VOC/SegmentationClass/{}.png", "a", "b")
    assert names(tmp_path, path="VOC", photos="JPEGImages", folder="SegmentationClass") == [
        ("VOC/JPEGImages/a.jpg", "VOC/SegmentationClass/a.png"),
        ("VOC/JPEGImages/b.jpg", "VOC/SegmentationClass/b.png"),
    ]


def test_masks_beside_their_photos(tmp_path):
    fill(tmp_path, "{}.jpg", "{}_mask.png", "a", "sub/b")
    found = names(tmp_path, path=".", photos=".", folder=".", name="*_mask")
    assert found == [("a.jpg", "a_mask.png"), ("sub/b.jpg", "sub/b_mask.png")]


def test_masks_in_a_folder_among_the_photos(tmp_path):
    fill(tmp_path, "{}.png", "masks/{}.png", "a")
    assert names(tmp_path, path=".", photos=".", folder="masks") == [("a.png", "masks/a.png")]


def test_names_with_other_ends_and_folders_of_cities(tmp_path):
    fill(tmp_path, "left/train/{}_left.png", "fine/train/{}_fine_ids.png", "aachen/1", "bonn/1")
    settings = {
        "path": ".",
        "photos": "left/{split}",
        "photo_name": "*_left",
        "folder": "fine/{split}",
        "name": "*_fine_ids",
    }
    assert names(tmp_path, **settings) == [
        ("left/train/aachen/1_left.png", "fine/train/aachen/1_fine_ids.png"),
        ("left/train/bonn/1_left.png", "fine/train/bonn/1_fine_ids.png"),
    ]
    with pytest.raises(SourceMissing, match="left/val: no such folder"):
        open_split(tmp_path, "val", **settings)


def test_a_missing_mask_is_named(tmp_path):
    fill(tmp_path, "{}.jpg", "{}_mask.png", "a", "b")
    (tmp_path / "b_mask.png").unlink()
    with pytest.raises(UpernetError, match=r"b\.jpg: has no mask .*/b_mask\.png"):
        names(tmp_path, path=".", photos=".", folder=".", name="*_mask")


@given(st.text("ab_", max_size=4), st.text("ab_", max_size=4), st.text("ab_", min_size=1, max_size=4))
def test_a_name_without_its_ends(before, after, stem):
    assert common_name(before + stem + after, f"{before}*{after}") == stem


def test_lists_say_which_photos_a_split_has(tmp_path):
    fill(tmp_path, "images/{}.jpg", "annotations/{}.png", "a", "b", "c", "d")
    (tmp_path / "train.txt").write_text("# by name or by path\nimages/a.jpg\n\nc\n")
    (tmp_path / "val.txt").write_text("images/b\nd.jpg\n")
    lists = {split: str(tmp_path / f"{split}.txt") for split in ("train", "val")}
    stems = {
        split: [photo[7] for photo, _ in names(tmp_path, split, path=".", lists=lists)] for split in ("train", "val")
    }
    assert stems == {"train": ["a", "c"], "val": ["b", "d"]}
    with pytest.raises(SourceMissing, match="no split test"):
        open_split(tmp_path, "test", path=".", lists=lists)


def test_lists_also_select_photos_of_class_folders(tmp_path):
    make_label_folder(tmp_path)
    (tmp_path / "train.txt").write_text("garden/1.jpg\nstreet/0.jpg\n")
    spec = source_spec(kind="label_folder", level="scene", lists={"train": str(tmp_path / "train.txt")})
    source = open_source("mine", spec, TAXONOMY, tmp_path, "train")
    assert [(photo.path.parent.name, photo.path.name) for photo in source.photos] == [
        ("garden", "1.jpg"),
        ("street", "0.jpg"),
    ]


def test_mistakes_in_lists(tmp_path):
    fill(tmp_path, "images/{}.jpg", "annotations/{}.png", "a")
    (tmp_path / "train.txt").write_text("a\nb\nc\n")
    with pytest.raises(UpernetError, match=r"train\.txt: lists 'b' \(and 1 more\)"):
        open_split(tmp_path, path=".", lists={"train": str(tmp_path / "train.txt")})
    with pytest.raises(UpernetError, match=r"other\.txt: no such file"):
        open_split(tmp_path, path=".", lists={"train": str(tmp_path / "other.txt")})
    with pytest.raises(ValueError, match="not listed under splits"):
        source_spec(splits={"val": "val"}, lists={"train": "train.txt"})


# symbolic links


def link_outside(tmp_path: Path) -> Path:
    """Return a data folder whose photo is a link to a file outside of it."""
    folder = make_mask_folder(tmp_path / "data", count=1, names=False, values=(1, 2))
    save_photo(tmp_path / "private.png")
    (folder / "images" / "000.png").unlink()
    (folder / "images" / "000.png").symlink_to(tmp_path / "private.png")
    return tmp_path / "data"


def test_a_photo_may_not_be_a_link_to_a_file_outside(tmp_path):
    data = link_outside(tmp_path)
    with pytest.raises(UpernetError, match=r"images/000\.png: leads through a symbolic link .*sources\.mine\.follow_"):
        open_split(data)
    assert len(open_split(data, follow_links=True)) == 1


def test_a_folder_of_masks_may_not_be_a_link_to_a_folder_outside(tmp_path):
    folder = make_mask_folder(tmp_path / "data", count=1, names=False, values=(1, 2))
    (folder / "annotations").rename(tmp_path / "elsewhere")
    (folder / "annotations").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UpernetError, match="leads through a symbolic link"):
        open_split(tmp_path / "data")


def test_links_inside_the_data_set_are_followed(tmp_path):
    folder = make_mask_folder(tmp_path, count=2, names=False, values=(1, 2))
    (folder / "images").rename(tmp_path / "photos")
    (folder / "images").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    assert len(open_split(tmp_path)) == 2


def test_the_folder_of_a_source_may_be_a_link(tmp_path):
    make_mask_folder(tmp_path / "disk", count=1, names=False, values=(1, 2))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set").symlink_to(tmp_path / "disk" / "set")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(open_split(tmp_path / "data")) == len(open_split(tmp_path / "link")) == 1
