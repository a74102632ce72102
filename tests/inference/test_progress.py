"""Tests of upernet.inference.progress."""

from __future__ import annotations

import re

import pytest

from upernet.inference import progress
from upernet.inference.progress import RunProgress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (3725.4, "1 h 2 min"),
        (90061, "25 h 1 min"),
        (-3, "0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_count_what_is_done_and_rate_what_is_parsed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with RunProgress(4, lines=True) as shown:
        shown.advance(parsed=False)
        shown.advance(parsed=True)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "upernet: 1 of 4 photos, 0.0 photos/s."
    assert re.fullmatch(r"upernet: 2 of 4 photos, \d+\.\d photos/s, \d+ s left\.", second)


@pytest.mark.parametrize("options", [{"lines": False}, {"lines": True, "quiet": True}])
def test_no_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: dict[str, bool]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with RunProgress(None, **options) as shown:
        shown.advance(parsed=True)
    assert capsys.readouterr().err == ""
    assert re.fullmatch(r"upernet: 1 photos, \d+\.\d photos/s\.", shown.line())
