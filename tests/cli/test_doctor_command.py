"""Tests of upernet.cli.doctor and upernet.cli.main: what a new user types first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import Run

from upernet.cli import main as main_module

BASH = shutil.which("bash")


def test_the_bare_command_says_what_to_do_next(run: Run) -> None:
    status, stdout, stderr = run()
    assert (status, stderr) == (0, "")
    assert len(stdout.splitlines()) < 12
    assert "upernet parse photo.jpg" in stdout and "upernet doctor" in stdout and "upernet --help" in stdout
    commands = [command.name or command.callback.__name__ for command in main_module.app.registered_commands]
    shown = [line.split()[1] for line in stdout.splitlines() if line.startswith("  upernet ")]
    assert set(shown) - {"--help"} <= set(commands)


@pytest.mark.slow
def test_the_report_names_what_runs_here(run: Run) -> None:
    status, stdout, stderr = run("doctor")
    assert (status, stderr) == (0, "")
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in stdout
    for row in ("devices", "CPU features", "threads", "memory", "kernels", "caches", "extras"):
        assert f"\n{row} " in stdout
    assert "dcnv3 (InternImage): numba (x is on the CPU)" in stdout
    assert stdout.endswith("Nothing is broken.\n")


@pytest.mark.slow
@pytest.mark.process
def test_what_is_broken_comes_with_its_remedy(tmp_path: Path) -> None:
    """A torchvision that does not load, and a wrong and a misspelled variable, in a real process."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "UPERNET_MIRROR": "weights.example",
        "UPERNET_OFLINE": "1",
        "UPERNET_TOKEN": "secret-of-the-user",
        "HTTPS_PROXY": "http://me:password@proxy.example:3128",
    }
    command = [sys.executable, "-m", "upernet", "doctor"]
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    problems = {problem["fix"]: problem for problem in report["problems"]}
    assert report["broken"]
    assert "nms does not exist" in problems["pip install --force-reinstall torch torchvision"]["problem"]
    assert problems["unset UPERNET_OFLINE"]["problem"].endswith("(did you mean 'UPERNET_OFFLINE'?)")
    assert any("UPERNET_MIRROR=weights.example" in problem["problem"] for problem in report["problems"])
    assert report["environment"]["HTTPS_PROXY"] == "http://...@proxy.example:3128"
    assert "secret-of-the-user" not in done.stdout and "password" not in done.stdout


@pytest.mark.slow
@pytest.mark.process
def test_the_report_does_not_need_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-m", "upernet", "doctor"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "broken: torch " in done.stdout and "libtorch_cpu.so" in done.stdout
    assert "    pip install --force-reinstall torch torchvision" in done.stdout


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(BASH is None, reason="bash is not installed")
def test_bash_completes_commands_options_and_models(tmp_path: Path) -> None:
    """What `--install-completion` writes, in a bash with a home of its own."""
    (tmp_path / "upernet").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m upernet "$@"\n')
    (tmp_path / "upernet").chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    # The command asks which shell has started it. Something has to follow it, or bash becomes the command.
    install = [str(BASH), "--norc", "-c", "upernet --install-completion; exit $?"]
    installed = subprocess.run(install, env=environment, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert str(tmp_path / ".bash_completions" / "upernet.sh") in (tmp_path / ".bashrc").read_text()
    script = """
    source "$HOME/.bashrc"
    complete -p upernet | grep -q -- '-F _upernet_completion'
    for words in 'upernet doc' 'upernet doctor --j' 'upernet bench every'; do
        COMP_WORDS=($words)
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _upernet_completion upernet
        echo "${COMPREPLY[@]}"
    done
    """
    done = subprocess.run([str(BASH), "--norc", "-ec", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["doctor", "--json", "everyday"]
