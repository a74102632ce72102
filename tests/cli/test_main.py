"""Tests of upernet.cli.main: what all commands have in common."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.command_line import Run
from helpers.interrupts import interruptible

from upernet.cli import main as main_module


def test_errors_of_the_user_are_one_sentence(run: Run, tmp_path: Path) -> None:
    expected = f"upernet: {tmp_path}: is a folder; give a file name for --json.\n"
    assert run("evaluate", "camvid", "--data", ".", "--json", tmp_path) == (2, "", expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_an_interrupt_is_quiet(run: Run, tmp_path: Path) -> None:
    """The recipe is a pipe, from which the command reads until it is interrupted."""
    pipe = tmp_path / "mine.yaml"
    os.mkfifo(pipe)
    command, is_done = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        with open(pipe, "w"):  # waits for the command to open it, too
            signal.pthread_kill(command, signal.SIGINT)
            is_done.wait()

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with interruptible():
        result = run("evaluate", pipe, "--data", ".")
    is_done.set()
    thread.join()
    assert result == (130, "", "")


def test_mistakes_in_the_program_are_not_hidden() -> None:
    """A stdout that was opened for reading is such a mistake."""
    with open(os.devnull) as stdout, contextlib.redirect_stdout(stdout), pytest.raises(io.UnsupportedOperation):
        main_module.main(["--help"])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["nonsense"], ["parse"], ["parse", "photo.jpg", "--nonsense"]])
def test_usage_errors(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert "Usage: upernet" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["parse", "models", "train", "evaluate", "data", "download", "convert"])
def test_every_command_has_help(run: Run, command: str) -> None:
    assert command in run("--help").stdout
    result = run(command, "-h")
    assert result.status == 0
    assert f"Usage: upernet {command}" in result.stdout


@pytest.mark.slow
@pytest.mark.process
def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "upernet", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1)
