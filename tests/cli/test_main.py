"""Tests of upernet.cli.main: what all commands have in common."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.command_line import Run

from upernet.cli import main as main_module
from upernet.errors import UpernetError


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("upernet.inference.photos.find_photos", fail)


def test_errors_of_the_user_are_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, UpernetError("photo.jpg: no such file; check the path."))
    assert run("parse", "photo.jpg") == (2, "", "upernet: photo.jpg: no such file; check the path.\n")


def test_an_interrupt_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert run("parse", "photo.jpg") == (130, "", "")


def test_mistakes_in_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main_module.main(["parse", "photo.jpg"])


@pytest.mark.parametrize("arguments", [["nonsense"], ["parse"], ["parse", "photo.jpg", "--nonsense"]])
def test_usage_errors(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert "Usage: upernet" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["parse", "models", "train", "evaluate", "data", "download", "convert"])
def test_every_command_has_help(run: Run, command: str) -> None:
    assert command in run("--help").stdout
    result = run(command, "-h")
    assert result.status == 0
    assert f"Usage: upernet {command}" in result.stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "upernet", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1)
