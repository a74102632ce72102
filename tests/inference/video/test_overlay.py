"""Tests of upernet.inference.video.overlay: nothing in a legend jumps."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_parses import parse_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from upernet.inference import LabelMap, Parse
from upernet.inference.video.overlay import Lines, OverlayPainter, clock_time

SHARES = st.dictionaries(st.integers(0, 8), st.floats(0.01, 1), max_size=6)


@settings(max_examples=50, deadline=None)
@given(st.lists(SHARES, min_size=1, max_size=12))
def test_a_class_keeps_its_line_while_it_is_in_sight(frames: list[dict[int, float]]):
    lines, before = Lines(4), list[int | None]()
    for number, shares in enumerate(frames):
        lines.update(shares, number / 10)
        shown = [label for label in lines.labels if label is not None]
        assert len(shown) == len(set(shown))
        for place, label in enumerate(before):
            if label is not None and (label in shares or len(shown) < 4):
                assert lines.labels[place] == label
        before = list(lines.labels)


def test_a_class_gives_its_line_to_a_new_one_only_if_it_is_needed():
    lines = Lines(2)
    lines.update({3: 0.5, 5: 0.5}, 0)
    lines.update({5: 1.0}, 1)
    assert lines.labels == [3, 5]
    lines.update({5: 0.5, 7: 0.5}, 2)
    assert lines.labels == [7, 5]
    lines.update({5: 0.4, 7: 0.4, 8: 0.2}, 3)
    assert lines.labels == [7, 5]


def test_shares_are_averaged_over_time():
    lines = Lines(2)
    lines.update({1: 1.0}, 0)
    lines.update({}, 0.7)
    assert lines.shares[1] == pytest.approx(1 / np.e)


def many_classes(count: int, size: tuple[int, int] = (40, 60)) -> LabelMap:
    names = tuple(f"class {number}" for number in range(count))
    colors = tuple((2 * number % 256, 90, 200) for number in range(count))
    labels = np.zeros(size, np.int16)
    return LabelMap("object", labels, np.ones(size, np.float32), names, colors, False)


@pytest.mark.parametrize("count", [2, 60])
@pytest.mark.parametrize("size", [(40, 60), (300, 80), (30, 400)])
def test_all_frames_have_one_even_size(count: int, size: tuple[int, int]):
    label_map = many_classes(count, size)
    painter = OverlayPainter(label_map)
    photo = Image.new("RGB", (size[1], size[0]), "gray")
    for number in range(3):
        label_map.labels[:] = number % count
        picture = painter.paint(Parse(photo, {"object": label_map}), "object", number / 10)
        assert picture.size == painter.size
    assert painter.size[0] % 2 == painter.size[1] % 2 == 0


def test_the_legend_stays_where_it_is_when_classes_come_and_go():
    """The lines of classes that stay look the same in both frames, whatever else appears."""
    sizes = 60, 80
    first, second = np.zeros(sizes, np.int16), np.zeros(sizes, np.int16)
    first[:30], second[:30] = 1, 1
    second[50:] = 3
    painter = OverlayPainter(parse_of({"object": first}).object)
    pictures = [
        painter.paint(parse_of({"object": labels}), "object", time) for labels, time in ((first, 0.0), (second, 100.0))
    ]
    legends = [np.asarray(picture)[:, painter.size[0] - painter._column - painter._margin :] for picture in pictures]
    different = np.flatnonzero((legends[0] != legends[1]).any(axis=(1, 2)))
    line = painter._line
    tree = painter._top + 2 * line
    below = painter.size[1] - painter._margin - 3 * line  # no class, unsure, time
    assert all(tree <= row < tree + line or row >= below for row in different)
    assert (different < below).any()


def test_times_of_the_clock():
    assert [clock_time(seconds) for seconds in (0, 0.1, 59.99, 60, 3600)] == [
        "0:00.0",
        "0:00.1",
        "0:59.9",
        "1:00.0",
        "1:00:00.0",
    ]
