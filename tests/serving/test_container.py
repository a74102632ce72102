"""Tests of Dockerfile, .dockerignore and compose.yaml, as far as they can be checked without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.server import DEADLINE, Served, gated_parser, until
from typer.main import get_command

from upernet.cli.main import app

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*(?:\\\n.*)*)", DOCKERFILE, re.MULTILINE)


def listed(name: str) -> list[str]:
    """Return the last instruction of a kind, in its exec form."""
    return json.loads(instructions(name)[-1])


def test_what_is_copied_is_there_and_is_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = re.findall(r'^(?:readme = |"examples" = |)"?(README\.md|examples)"?', metadata, re.MULTILINE)
    license_files = re.search(r"^license-files = (.*)$", metadata, re.MULTILINE)
    assert license_files and {*needed, *json.loads(license_files[1]), "src"} <= copied
    extras = re.search(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert extras and all(re.search(rf"^{extra} = \[", metadata, re.MULTILINE) for extra in extras[1].split(","))


def test_the_command_has_options_that_exist():
    program, command, *arguments = listed("ENTRYPOINT")
    assert (program, command) == ("upernet", "serve")
    with get_command(app).commands["serve"].make_context("serve", arguments) as context:  # type: ignore[attr-defined]
        assert context.params["host"] == "0.0.0.0" and context.params["browser"] is False
        assert context.params["port"] == int(instructions("EXPOSE")[0])


def test_nothing_runs_as_root():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions("USER")[-1])
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nENTRYPOINT ")


@pytest.mark.slow
@pytest.mark.process
def test_the_health_check(checkpoint: Path):
    words = instructions("HEALTHCHECK")[0].partition(" CMD ")[2]
    python, option, code = json.loads(words)
    assert (python, option) == ("python", "-c")

    def status(server: Served) -> int:
        command = [sys.executable, "-c", code.replace("8000", str(server.port))]
        return subprocess.run(command, capture_output=True, timeout=DEADLINE).returncode

    parser = gated_parser(checkpoint)
    parser.close_gate()
    server = Served({"colors": parser})
    server.thread.start()
    until(lambda: server.server.started, "the server listens")
    assert status(server) == 1  # the network has not run yet
    parser.gate.set()
    server.engine.warmed.result(DEADLINE)
    assert status(server) == 0
    server.stop()
    assert status(server) == 1  # nobody listens


def test_compose_takes_away_what_the_server_does_not_need():
    (service,) = COMPOSE["services"].values()
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] and service["pids_limit"]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["environment"]["UPERNET_TOKEN"].startswith("${UPERNET_TOKEN:?")
    (volume,) = service["volumes"]
    name, folder = volume.split(":")
    assert name in COMPOSE["volumes"] and folder == instructions("VOLUME")[0]
    writable = re.findall(r"(?:NUMBA_CACHE_DIR|XDG_CACHE_HOME|HF_HOME)=(\S+)", DOCKERFILE)
    assert len(writable) == 3 and all(path.startswith(folder) for path in writable)
