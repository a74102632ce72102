"""Tests of upernet.inference.render: overlays, and their legends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import LabelMap
from upernet.inference.legend import Legend, legend_entries
from upernet.inference.render import blended, overlay, painted

NAMES = ("sky", "a_rather_long_name_of_a_class", "person")
COLORS = ((0, 90, 255), (255, 160, 0), (20, 140, 20))


def label_map(labels: np.ndarray, background: bool = False, classes: int = 3) -> LabelMap:
    names = (*NAMES, *(f"class {i}" for i in range(3, classes)))
    colors = (*COLORS, *((i % 256, 0, 0) for i in range(3, classes)))
    return LabelMap("object", labels.astype(np.int16), np.ones(labels.shape, np.float32), names, colors, background)


def thirds() -> np.ndarray:
    return np.repeat([[0, 1, -1]], 60, axis=0).repeat(40, axis=1)


def test_labels_tint_the_photo_where_they_are() -> None:
    photo = Image.new("RGB", (120, 60), (100, 100, 100))
    pixels = np.asarray(painted(photo, label_map(thirds()), (240, 120))).astype(int)
    sky, long, unsure = pixels[:, :75], pixels[:, 85:155], pixels[:, 165:]
    assert np.ptp(sky, axis=(0, 1)).max() == np.ptp(long, axis=(0, 1)).max() == 0
    assert sky[0, 0].argmax() == 2 and long[0, 0].argmax() == 0
    assert unsure.max() < 130 and np.ptp(unsure) > 20  # dark and hatched
    assert pixels[:, (79, 159)].min() > 180  # the borders


def test_background_keeps_the_photo() -> None:
    photo = Image.new("RGB", (120, 60), (120, 100, 80))
    pixels = np.asarray(painted(photo, label_map(thirds(), background=True), (120, 60)))
    assert np.abs(pixels[:, :35].astype(int) - (120, 100, 80)).max() <= 20


@given(alpha=st.floats(0, 1), background=st.booleans())
@settings(max_examples=20, deadline=None)
def test_plain_overlays_blend_colors_in_the_size_of_the_photo(alpha: float, background: bool) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8))
    drawn = label_map(thirds(), background)
    pixels, before = np.asarray(blended(photo, drawn, alpha)).astype(float), np.asarray(photo).astype(float)
    wanted = (1 - alpha) * before + alpha * np.array([*COLORS, (0, 0, 0)])[drawn.labels]
    bare = drawn.labels <= 0 if background else drawn.labels < 0
    assert np.abs(pixels - np.where(bare[..., None], before, wanted)).max() < 2


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_weights_of_colors_are_checked(alpha: float) -> None:
    with pytest.raises(UpernetError, match="give a number from 0"):
        blended(Image.new("RGB", (120, 60)), label_map(thirds()), alpha)


def test_legend_lists_classes_by_area_then_background_and_unsure() -> None:
    labels = np.array([[0, 0, 1, 2, 2, -1, -1, -1, -1, -1]])
    assert [(entry.name, entry.share) for entry in legend_entries(label_map(labels))] == [
        ("sky", "20 %"),
        ("person", "20 %"),
        ("a rather long name of a class", "10 %"),
        ("unsure", "50 %"),
    ]
    assert [entry.name for entry in legend_entries(label_map(labels, background=True))] == [
        "person",
        "a rather long name of a class",
        "no listed object",
        "unsure",
    ]


def test_long_legends_sum_up_the_rest() -> None:
    labels = np.arange(40)[None].repeat(2, axis=0)
    entries = legend_entries(label_map(labels, classes=40), most=10)
    assert len(entries) == 10
    assert (entries[-1].name, entries[-1].share) == ("31 more", "78 %")


@given(count=st.integers(1, 40), width=st.integers(100, 900), text=st.integers(10, 30))
@settings(max_examples=30, deadline=None)
def test_a_legend_fits_its_width_and_holds_all_entries(count: int, width: int, text: int) -> None:
    entries = legend_entries(label_map(np.arange(count)[None], classes=max(3, count)))
    legend = Legend(entries, text, width=width)
    assert legend.size[0] <= width
    columns = (legend.size[0] + legend.gap) // (legend.column + legend.gap)
    assert columns * legend.rows >= count
    assert legend.size[1] == legend.rows * legend.line


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (500, 3), (3, 500), (300, 200), (200, 300), (4000, 100)])
def test_photos_of_any_shape_can_be_drawn(size: tuple[int, int]) -> None:
    picture = overlay(Image.new("RGB", size, "gray"), label_map(np.zeros((size[1], size[0]))))
    assert max(picture.size) >= 480
