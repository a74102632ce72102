"""Tests of docs/gallery.md and docs/write_gallery.py: all example photos, small pictures, the bundled model."""

from __future__ import annotations

import json
import re

import numpy as np
import write_gallery as gallery
from PIL import Image

PHOTOS = [path.name for path in gallery.photos()]


def test_the_gallery_shows_every_example_photo():
    page = gallery.PAGE.read_text(encoding="utf-8")
    assert re.findall(r"\(images/gallery/(.+?)\)", page) == PHOTOS
    assert {path.name for path in gallery.PICTURES.iterdir()} == set(PHOTOS) == set(gallery.remarks())
    described = json.loads(gallery.RESULT.read_text(encoding="utf-8"))["photos"]
    for name in PHOTOS:
        assert all(f"> {line}" in page for line in described[name].splitlines())


def test_the_page_is_made_of_its_files_and_of_the_bundled_model():
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page(), "run python docs/write_gallery.py --page"
    written = json.loads(gallery.RESULT.read_text(encoding="utf-8"))["sha256"]
    assert written == gallery.model_hash(), "the bundled weights have changed: run make gallery"


def test_pictures_are_small():
    sizes = [path.stat().st_size for path in gallery.PICTURES.glob("*.jpg")]
    assert max(sizes) <= gallery.MOST_BYTES and sum(sizes) <= gallery.MOST_BYTES_TOGETHER


def test_a_picture_shrinks_until_it_is_small_enough():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 1500, 3), np.uint8))
    assert len(gallery.small_jpeg(noise)) <= gallery.MOST_BYTES


def test_remarks_appear_on_the_page(monkeypatch):
    monkeypatch.setattr(gallery, "remarks", lambda: {PHOTOS[0]: "The sky is right.\nThe cat is not.\n"})
    page = gallery.page()
    assert "**Right and wrong:** The sky is right. The cat is not.\n" in page
    assert page.count(gallery.NO_REMARK) == len(PHOTOS) - 1
