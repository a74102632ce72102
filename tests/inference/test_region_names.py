"""Tests of upernet.inference.region_names: names lie inside their regions, and never on each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from upernet.inference import LabelMap
from upernet.inference.region_names import draw_region_names, find_places

NAMES = ("sky", "tennis court", "person", "a")


def label_map(labels: np.ndarray, background: bool = False) -> LabelMap:
    colors = ((9, 9, 9),) * len(NAMES)
    return LabelMap("object", labels, np.ones(labels.shape, np.float32), NAMES, colors, background)


def test_a_name_is_in_the_middle_of_its_region() -> None:
    labels = np.zeros((200, 400), np.int16)
    labels[:, 200:] = 1
    first, second = sorted(find_places(labels, label_map(labels), 16), key=lambda place: place.x)
    assert (first.name, second.name) == ("sky", "tennis court")
    assert abs(first.x - 100) < 25 and abs(second.x - 300) < 25 and abs(first.y - 100) < 25


def test_small_regions_background_and_unsure_pixels_get_no_name() -> None:
    labels = np.zeros((200, 400), np.int16)
    labels[:20, :20] = 1
    labels[100:] = -1
    assert find_places(labels, label_map(labels, background=True), 16) == []
    assert find_places(np.zeros((3, 3), np.int16), label_map(labels), 16) == []
    assert find_places(np.zeros((1, 1), np.int16), label_map(labels), 16) == []


@given(st.integers(0, 10**6), st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_names_keep_apart_and_within_the_drawing(seed: int, blocks: int) -> None:
    coarse = np.random.default_rng(seed).integers(-1, len(NAMES), (blocks, blocks)).astype(np.int16)
    labels = np.kron(coarse, np.ones((300 // blocks, 420 // blocks), np.int16))
    places = find_places(labels, label_map(labels), 15)
    for number, place in enumerate(places):
        left, top, right, bottom = place.box
        assert left >= -4 and top >= -4 and right <= labels.shape[1] + 4 and bottom <= labels.shape[0] + 4
        inside = labels[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right)]
        assert (inside == NAMES.index(place.name)).mean() > 0.75
        for other in places[:number]:
            assert right <= other.box[0] or other.box[2] <= left or bottom <= other.box[1] or other.box[3] <= top


def test_letters_are_white_with_a_dark_halo() -> None:
    labels = np.zeros((100, 200), np.int16)
    picture = Image.new("RGB", (200, 100), (120, 160, 200))
    draw_region_names(picture, labels, label_map(labels), 20)
    pixels = np.asarray(picture).sum(axis=2)
    assert (pixels > 740).any() and (pixels < 90).any()
