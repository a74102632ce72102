"""Tests of upernet.scaffold.splits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from upernet.scaffold.splits import SplitPhoto, divide


def photos(*names: str, shows: str = "road") -> list[SplitPhoto]:
    return [SplitPhoto(PurePosixPath(f"images/{name}.jpg"), frozenset((shows,))) for name in names]


@given(st.lists(st.text("abc_0123456789", min_size=1, max_size=6), min_size=2, max_size=60, unique=True))
def test_every_photo_is_in_one_split(names):
    plan = divide(photos(*names))
    train, val = plan.photos["train"], plan.photos["val"]
    assert sorted([*train, *val]) == sorted(photo.path for photo in photos(*names))
    assert train and val
    assert divide(photos(*names)).photos == plan.photos


def test_about_the_same_share_of_photos_without_an_order():
    plan = divide(photos(*(f"holiday{number}" for number in range(100))))
    assert len(plan.photos["val"]) == 15


def test_whole_videos_stay_together():
    names = [f"seq{video:02}_{frame * 30:05}" for video in range(12) for frame in range(7)]
    plan = divide(photos(*names))
    videos = {split: {path.stem[:5] for path in paths} for split, paths in plan.photos.items()}
    assert not videos["train"] & videos["val"] and len(videos["val"]) == 2
    assert "whole videos" in plan.how


def test_photos_of_a_class_folder_do_not_stay_together():
    names = [
        f"{name}/{name}_{number:03}" for name in ("wood", "stone", "glass", "paper", "metal") for number in range(40)
    ]
    val = divide(photos(*names), videos=False).photos["val"]
    assert {path.parent.name for path in val} == {"wood", "stone", "glass", "paper", "metal"} and len(val) == 30


def test_frames_in_a_row_of_few_videos_stay_together():
    names = [f"{video}_{frame:06}" for video in ("0001TP", "0006R0", "0016E5") for frame in range(0, 1200, 10)]
    val = {path.stem for path in divide(photos(*names)).photos["val"]}
    borders = sum((first in val) != (second in val) for first, second in pairwise(names))
    assert 48 <= len(val) <= 60 and borders <= 8


def test_every_class_is_trained_and_scored_if_possible():
    some = photos(*(f"a{number}x" for number in range(97))) + photos("one", "two", shows="rare")
    shown = [
        {photo.path for photo in some if "rare" in photo.classes} & set(paths) for paths in divide(some).photos.values()
    ]
    assert all(shown)
