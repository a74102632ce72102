"""Tests of docs/serving.md: its clients run against a server, and its options and metrics exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers.color_checkpoint import beach_photo
from helpers.server import DEADLINE, GatedParser, served, until
from PIL import Image
from typer.main import get_command

from upernet.cli.main import app
from upernet.serving import Limits

DOCUMENT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
TOKEN = "s3cret"
DESCRIPTION = "Mostly sky, trees and a person."

pytestmark = [pytest.mark.slow, pytest.mark.process]


def blocks(language: str, containing: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    return [block for block in found if containing in block]


@pytest.fixture(scope="module")
def address(colors: GatedParser) -> Iterator[str]:
    with served({"colors": colors}) as server:
        yield server.url


@pytest.fixture(scope="module")
def guarded(colors: GatedParser) -> Iterator[str]:
    with served({"colors": colors}, token=TOKEN) as server:
        yield server.url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(beach_photo()).save(tmp_path / "photo.jpg", quality=95)
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(address: str, folder: Path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (script,) = blocks("sh", "curl ")
    shown = run(["sh", "-e", "-c", script.replace("http://localhost:8000", address)], folder)
    assert '"description"' in shown
    assert np.asarray(Image.open(folder / "object.png")).shape == (64, 96)
    assert "parse.json" in zipfile.ZipFile(folder / "parse.zip").namelist()


@pytest.mark.parametrize("token", ["", TOKEN])
def test_python(request: pytest.FixtureRequest, folder: Path, token: str):
    url = request.getfixturevalue("guarded" if token else "address")
    (script,) = blocks("python", "httpx")
    shown = run([sys.executable, "-c", script.replace("http://localhost:8000", url)], folder, UPERNET_TOKEN=token)
    assert DESCRIPTION in shown and "(64, 96) ['sky', 'tree', 'person']" in shown


@pytest.mark.parametrize("token", ["", TOKEN])
def test_javascript(request: pytest.FixtureRequest, folder: Path, token: str):
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    url = request.getfixturevalue("guarded" if token else "address")
    (script,) = blocks("js", "fetch")
    (folder / "client.mjs").write_text(script.replace("http://localhost:8000", url))
    shown = run([node, "client.mjs"], folder, UPERNET_TOKEN=token)
    assert DESCRIPTION in shown and re.search(r"^sky 0\.\d+$", shown, re.MULTILINE)


def test_clients_wait_while_the_server_is_busy(colors: GatedParser, folder: Path):
    """A server that is full for the first try: one photo is in the network and one waits."""
    (script,) = blocks("python", "httpx")
    with served({"colors": colors}, Limits(queue=1)) as server:
        colors.close_gate()
        content = (folder / "photo.jpg").read_bytes()
        with server.connect() as one, server.connect() as other:
            head = f"POST /v1/parse HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}"
            one.sendall(f"{head}\r\n\r\n".encode() + content)
            assert colors.entered.wait(DEADLINE)
            other.sendall(f"{head}\r\n\r\n".encode() + content)
            client = subprocess.Popen(
                [sys.executable, "-c", script.replace("http://localhost:8000", server.url)],
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
            )
            until(lambda: server.metric("upernet_requests_total", status="429") >= 1, "the client is refused")
            colors.gate.set()
            assert DESCRIPTION in client.communicate(timeout=DEADLINE)[0]


def test_options_and_defaults_are_those_of_the_command():
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {name: option for option in command.params for name in option.opts}
    used = set(re.findall(r"upernet serve[^`\n]*?(--[\w-]+)", DOCUMENT))
    rows = re.findall(r"^\| `(--[\w-]+)` \| (\S+)", DOCUMENT, re.MULTILINE)
    named = set(re.findall(r"`(--[\w-]+)[ `]", DOCUMENT)) - {"--build-arg"}
    assert rows and used | named <= set(options)
    for name, default in rows:
        if default.isdecimal():
            assert options[name].default == int(default), name
    limits = Limits()
    assert f"{limits.in_memory / 1e6:g} million" in DOCUMENT and f"{limits.held / 2**20:g} MiB" in DOCUMENT
    assert f"bodies that take longer than {limits.upload_seconds:g}" in DOCUMENT
    assert f"not read within another {limits.download_seconds:g}" in DOCUMENT


def test_metrics_are_those_of_the_server(address: str):
    kinds = re.findall(r"^# TYPE (upernet_\w+) \w+$", httpx.get(f"{address}/metrics").text, re.MULTILINE)
    documented = re.findall(r"`(upernet_\w+)(?:\{[\w,]+\})?`", DOCUMENT)
    assert set(documented) == {kind for kind in kinds if not kind.endswith("_created")}


def test_parameters_and_statuses_are_those_of_the_server(address: str):
    described = httpx.get(f"{address}/openapi.json").json()["paths"]["/v1/parse"]["post"]
    parameters = re.findall(r"^\| `(?!upernet)([a-z_]+)` \| ", DOCUMENT, re.MULTILINE)
    assert parameters == [parameter["name"] for parameter in described["parameters"]]
    rows = re.findall(r"^\| ([\d, ]+) \| ", DOCUMENT, re.MULTILINE)
    assert {status for row in rows for status in row.split(", ")} == described["responses"].keys() - {"200"}
