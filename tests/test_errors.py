"""Tests of upernet.errors: text that is safe to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upernet.errors import printable, printable_lines


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in shown)
    assert printable(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ãœbung 東京 👩‍🚀.jpg", "Ãœbung 東京 👩‍🚀.jpg"),
        ("esc\x1b[31mred.jpg", r"esc\x1b[31mred.jpg"),
        ("two\r\nlines\x85", r"two\r\nlines\x85"),
        ("gpj.\u202ecod.exe", r"gpj.\u202ecod.exe"),
        ("bytes \udcff", r"bytes \udcff"),
    ],
)
def test_names(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_details_of_an_error_keep_their_lines() -> None:
    assert printable_lines("wrong:\n  a\x1b\n  b\nc") == "wrong:\n  a\\x1b\n  b\\nc"
