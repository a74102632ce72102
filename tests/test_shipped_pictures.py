"""Tests of the pictures in the repository: the example photos and the unfamiliar pictures of the benchmarks."""

import re
from pathlib import Path

import pytest
from PIL import Image

import upernet

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples"
UNFAMILIAR = ROOT / "benchmarks" / "data" / "unfamiliar"
PICTURES = [*PHOTOS.glob("*.jpg"), *UNFAMILIAR.glob("*.jpg"), *UNFAMILIAR.glob("*.png")]
FREE = re.compile(r"MIT|Apache-2\.0|public domain|no known copyright|\[CC0 1\.0\]|\[CC BY(-SA)? \d\.0\]")


@pytest.mark.parametrize("folder", [PHOTOS, UNFAMILIAR], ids=lambda folder: folder.name)
def test_credits_name_every_picture_with_its_license_and_its_source(folder: Path):
    text = (folder / "CREDITS.md").read_text(encoding="utf-8")
    table, sources = text.split("## Where each one comes from")
    names = {path.name for path in folder.iterdir()} - {"CREDITS.md", "remarks.yaml"}
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    assert {name for name, *_ in rows} == names and len(rows) == len(names)
    assert all(f"`{name}`:" in sources for name in names)
    for name, _, _, license in rows:
        assert FREE.match(license), name


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_picture_is_small_and_without_metadata(path: Path):
    with Image.open(path) as image:
        assert max(image.size) <= 1280
        assert not image.getexif() and "icc_profile" not in image.info
    assert path.stat().st_size <= 250_000


def test_example_photos_cover_the_everyday_subjects():
    subjects = {"living_room", "kitchen", "street", "mountain", "cat", "cows", "astronaut", "coffee", "car", "car_park"}
    assert subjects | {"brick_wall"} <= {path.stem for path in PHOTOS.glob("*.jpg")}


def test_everyday_finds_most_unfamiliar_pictures_and_no_example_photo():
    parser = upernet.load("everyday")
    found = {path.name for path in PICTURES if not parser(path, levels=["scene"]).is_familiar}
    pictures = {path.name for path in PICTURES if path.parent == UNFAMILIAR}
    assert len(found & pictures) >= 7, sorted(pictures - found)
    assert found - pictures <= {"brick_wall.jpg"}  # bricks that fill a photo are no everyday photo
