"""Tests of upernet.inference.wording: numbers, names and wrapped lines."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upernet.inference.wording import percent, readable, wrapped


@given(st.floats(0, 1, exclude_min=True))
def test_only_all_is_100_percent(share: float) -> None:
    assert (percent(share) == "100 %") == (share == 1)
    assert percent(share) != "0 %"


@pytest.mark.parametrize(
    ("share", "text"), [(0.0099, "under 1 %"), (0.01, "1 %"), (0.994, "99 %"), (0.996, "over 99 %"), (1, "100 %")]
)
def test_percentages(share: float, text: str) -> None:
    assert percent(share) == text


def test_names_are_readable_and_harmless() -> None:
    assert readable("traffic_light") == "traffic light"
    assert readable("a\x1b[2J\nb") == r"a\x1b[2J\nb"


SENTENCE = "The person (12 % of the photo) has hair (50 %) and skin (under 1 %); 17 % is unsure."


@pytest.mark.parametrize("width", [1, 5, 9, 10, 11, 17, 30, 80])
def test_wrapped_lines_keep_width_indent_and_numbers(width: int) -> None:
    lines = wrapped(f"{SENTENCE}\n{SENTENCE}", width, "  ").splitlines()
    assert all(line.startswith("  ") and line.strip() for line in lines)
    assert all(len(line) <= max(width, len("  (under 1 %);")) for line in lines)
    assert not any(re.match(r"\s*(%|1 %)", line) or line.endswith("under") for line in lines)
    assert " ".join(line.strip() for line in lines) == f"{SENTENCE} {SENTENCE}"
