"""Tests of upernet.scaffold.defaults."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upernet.scaffold.defaults import choose_defaults, class_weights, sided_classes

GB = 1 << 30
sizes = st.lists(st.tuples(st.integers(8, 6000), st.integers(8, 6000)), min_size=1, max_size=20)


@given(sizes, st.integers(1, 10**6), st.integers(1 * GB, 500 * GB))
def test_settings_are_within_bounds(sizes, photos, memory):
    found = choose_defaults(sizes, photos, memory)
    assert 2 <= found.batch_size <= 8 and 200 <= found.iterations <= 40_000
    assert all(64 <= side <= 384 and side % 32 == 0 for side in found.crop)
    assert found.short_side is None or 8 <= found.short_side <= 540


def test_photos_of_street_scenes():
    found = choose_defaults([(480, 360)] * 367, 367, 16 * GB)
    assert (found.crop, found.batch_size, found.short_side) == ((288, 384), 8, None)
    assert found.iterations == pytest.approx(1600, rel=0.05)


def test_photos_of_phones_are_reduced():
    found = choose_defaults([(4032, 3024), (3024, 4032)], 2, 16 * GB)
    assert found.short_side == 540 and max(found.crop) == 384


def test_little_memory_makes_small_batches():
    assert choose_defaults([(640, 480)], 100, 3 * GB).batch_size < 4


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=9))
def test_class_weights_are_factors(shares):
    assert all(0.3 <= factor <= 8 for factor in class_weights(shares).values())


def test_rare_classes_weigh_more():
    assert class_weights({"a": 0.5, "b": 0.3, "c": 0.2}) == {}
    weights = class_weights({"road": 0.81, "sky": 0.18, "sign": 0.01, "never": 0.0})
    assert weights["sign"] == pytest.approx(9 * weights["road"], rel=0.02) and "never" not in weights
    mean = sum(share * weights[name] for name, share in {"road": 0.81, "sky": 0.18, "sign": 0.01}.items())
    assert math.isclose(mean, 1, abs_tol=0.02)


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (("skin", "left_eye", "right_eye"), ("left_eye", "right_eye")),
        (("l_brow", "r_brow"), ("l_brow", "r_brow")),
        (("RightArm", "LeftArm"), ("RightArm", "LeftArm")),
        (("LEFT LUNG", "RIGHT LUNG"), ("LEFT LUNG", "RIGHT LUNG")),
        (("eye (left)", "eye (right)"), ("eye (left)", "eye (right)")),
        (("left_eye", "skin"), None),
        (("copyright", "copyleft", "bright", "bleft"), None),
    ],
)
def test_classes_that_a_mirrored_photo_would_exchange(names, sided):
    assert sided_classes(names) == sided
