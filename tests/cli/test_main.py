"""Tests of upernet.cli.main: what all commands have in common."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.command_line import Run
from helpers.interrupts import interruptible
from helpers.web import Server

import upernet
from upernet.cli import main as main_module
from upernet.cli.options import with_json_files


def test_errors_of_the_user_are_one_sentence(run: Run, tmp_path: Path) -> None:
    expected = f"upernet: {tmp_path / 'none'}: no such checkpoint file.\n"
    assert run("bench", tmp_path / "none") == (2, "", expected)


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"upernet {upernet.__version__}\n", "")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("pars", "'parse'"),
        ("predict", "`upernet parse`"),
        ("fit", "`upernet train`"),
        ("prepare", "`upernet data prepare`"),
    ],
)
def test_an_unknown_command_has_a_suggestion(run: Run, written: str, meant: str) -> None:
    status, stdout, stderr = run(written, "photo.jpg")
    assert (status, stdout) == (2, "")
    assert stderr.startswith(f"upernet: there is no command '{written}' (did you mean {meant}?); the commands are ")


def test_an_unknown_model_has_a_suggestion(run: Run) -> None:
    assert "unknown model 'everyda' (did you mean 'everyday'?)" in run("bench", "everyda").stderr
    assert "unknown recipe 'camvd' (did you mean 'camvid'?)" in run("data", "check", "camvd", "--data", ".").stderr


@pytest.mark.process
def test_shells_complete_the_names_of_models() -> None:
    environment = {
        **os.environ,
        "_UPERNET_COMPLETE": "complete_bash",
        "COMP_WORDS": "upernet bench every",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([sys.executable, "-m", "upernet"], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["everyday"]


def commands() -> list[tuple[str, ...]]:
    groups = {group.name: group.typer_instance for group in main_module.app.registered_groups}
    names = [(None, main_module.app), *groups.items()]
    return [
        tuple(filter(None, (group, command.name or command.callback.__name__)))
        for group, app in names
        for command in app.registered_commands
    ]


def test_options_mean_the_same_in_all_commands(run: Run) -> None:
    """One name has one metavar and one default, wherever it appears."""
    seen: dict[str, str] = {}
    for command in commands():
        help_text = run(*command, "--help").stdout
        for option, metavar in re.findall(r"^  (--[a-z-]+)((?: \S+)?)  ", help_text, re.MULTILINE):
            place = "DIR" if option == "--out" else metavar.strip()  # `init` writes a recipe, the others a folder
            assert seen.setdefault(option, place) == place, (command, option)
        assert not re.search(r"--[a-z-]+ +<(bool|str|path|int|float)", help_text), command
    assert {"--json", "--device", "--threads", "--data"} <= seen.keys()


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        (["models", "--json"], ["models", "--json", "-"]),
        (["models", "--json", "--help"], ["models", "--json", "-", "--help"]),
        (["models", "--json", "out.json"], ["models", "--json", "out.json"]),
        (["evaluate", "--json", "new"], ["evaluate", "--json", "new"]),
        (["parse", "--json", "photo.jpg"], ["parse", "--json", "-", "photo.jpg"]),
        (["parse", "--json", "."], ["parse", "--json", "-", "."]),
        (["parse", "--json", "-", "photo.jpg"], ["parse", "--json", "-", "photo.jpg"]),
    ],
)
def test_json_goes_to_a_file_or_to_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], expanded: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"a photo that must not be overwritten")
    assert with_json_files(given) == expanded


@pytest.mark.slow
def test_models_are_written_as_json(run: Run, tmp_path: Path) -> None:
    printed = run("models", "--json").stdout
    assert run("models", "--json", tmp_path / "models.json").stdout.startswith("model ")
    assert (tmp_path / "models.json").read_text() == printed


def test_an_interrupt_is_quiet(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download is interrupted while it waits for a server."""
    command, is_done, server = threading.get_ident(), threading.Event(), Server()

    def interrupt(_: object) -> None:
        signal.pthread_kill(command, signal.SIGINT)
        is_done.wait()

    server.script = [interrupt]
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path))
    monkeypatch.setenv("UPERNET_MIRROR", server.base)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with interruptible():
            result = run("download", "internimage_t")
    finally:
        is_done.set()
        server.shutdown()
        server.server_close()
    assert result == (130, "", "")


def test_mistakes_in_the_program_are_not_hidden() -> None:
    """A stdout that was opened for reading is such a mistake."""
    with open(os.devnull) as stdout, contextlib.redirect_stdout(stdout), pytest.raises(io.UnsupportedOperation):
        main_module.main(["--help"])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["parse"], ["parse", "photo.jpg", "--nonsense"]])
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
