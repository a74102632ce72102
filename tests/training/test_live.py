"""Tests of upernet.training.live: the line that shows where a run is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from upernet.training.live import PLAIN_EVERY, LiveLine, duration


def line(total: int = 160_000, width: int = 80, terminal: bool = False, now: list[float] | None = None) -> LiveLine:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal)
    return LiveLine(total, 0, console=console, clock=lambda: now[0] if now else 0.0)


def test_the_line_has_all_numbers_and_fits_into_80_columns() -> None:
    live = line()
    for iteration in range(1, 124):
        live.show(iteration, 9.3e-4, 0.532, 0.8)
    live.validated("object.miou", 0.512, 0.53)
    assert live.text() == "123/160000  loss 0.532  lr 9.3e-4  1.2 it/s  35:31 h left  miou 0.512 best 0.530"
    assert len(live.text()) <= 80


def test_the_loss_is_smoothed_without_a_slow_start() -> None:
    live = line()
    live.show(1, 0.1, 4.0, 1.0)
    assert "loss 4.000" in live.text()
    live.show(2, 0.1, 2.0, 1.0)
    assert "loss 2.974" in live.text()  # (0.95 * 4 + 2) / 1.95


def test_plain_lines_come_every_so_often() -> None:
    now = [0.0]
    live = line(total=100, now=now)
    for iteration in range(1, 101):
        now[0] += PLAIN_EVERY / 10
        live.show(iteration, 0.1, 1.0, 1.0)
    live.stop()
    output = live.console.file.getvalue().splitlines()
    assert output[0].startswith("1/100") and output[-1].startswith("100/100")
    assert 9 <= len(output) <= 12


def test_the_last_line_comes_once_with_its_validation() -> None:
    live = line(total=2)
    for iteration in (1, 2):
        live.show(iteration, 0.1, 1.0, 1.0)
    live.validated("object.miou", 0.25, 0.5)
    live.stop()
    output = live.console.file.getvalue().splitlines()
    assert [text.split()[0] for text in output] == ["1/2", "2/2"] and output[-1].endswith("miou 0.250 best 0.500")


def test_a_terminal_shows_a_bar_and_the_line() -> None:
    live = line(total=10, terminal=True)
    live.start()
    live.show(5, 0.1, 1.0, 1.0)
    live.validated("object.miou", 0.25, 0.5)
    live.stop()
    output = live.console.file.getvalue()
    assert "5/10 " in output and "5 s left" in output and "━" in output
    assert "loss 1.000  lr 1.0e-1  1.0 it/s  miou 0.250 best 0.500" in output


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    live = LiveLine(3, 0, quiet=True)
    live.start()
    live.show(3, 0.1, 1.0, 1.0)
    live.stop()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (725, "12:05 min"), (12_000, "3:20 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
