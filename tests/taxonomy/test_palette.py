"""Tests of upernet.taxonomy.palette: default colors are distinct and stable."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.taxonomy import Taxonomy
from upernet.taxonomy.palette import BACKGROUND_COLOR, default_colors


def test_four_hundred_colors_are_well_separated() -> None:
    colors = default_colors(400)
    assert len(set(colors)) == 400
    pairs = [(a, b) for i, a in enumerate(colors) for b in colors[:i]]
    assert min(sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in pairs) >= 17
    first = [(a, b) for i, a in enumerate(colors[:20]) for b in colors[:i]]
    assert min(sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in first) >= 70
    assert not set(colors) & {BACKGROUND_COLOR, (0, 0, 0), (255, 255, 255)}


def test_the_palette_does_not_change() -> None:
    assert default_colors(6) == (
        (0, 187, 0), (255, 68, 17), (238, 34, 204), (0, 136, 255), (255, 204, 0), (0, 255, 204),
    )  # fmt: skip


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=20)
def test_a_shorter_palette_begins_a_longer_one(a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert default_colors(long)[:short] == default_colors(short)


def test_more_classes_than_candidates_still_get_colors() -> None:
    assert len(default_colors(4000)) == 4000


channel = st.integers(0, 255)


@given(
    st.lists(
        st.none() | st.tuples(channel, channel, channel), min_size=1, max_size=12, unique_by=lambda c: c or object()
    )
)
@settings(deadline=None, max_examples=30)  # fmt: skip
def test_defaults_differ_from_given_colors(given_colors: list[tuple[int, int, int] | None]) -> None:
    classes = [
        {"name": f"c{i}", "color": "#{:02X}{:02x}{:02x}".format(*color)} if color else f"c{i}"
        for i, color in enumerate(given_colors)
    ]
    level = Taxonomy.from_dict({"levels": {"object": {"background": "-", "classes": classes}}}).level("object")
    assert level.colors[0] == BACKGROUND_COLOR
    assert len(set(level.colors[1:])) == len(given_colors)
    for color, expected in zip(level.colors[1:], given_colors, strict=True):
        assert expected is None or color == expected
