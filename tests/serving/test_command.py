"""Tests of `upernet serve` as a process: signals, addresses, tokens and models."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers.server import DEADLINE, GatedParser, photo, until

import upernet
from upernet.cli.main import main
from upernet.errors import UpernetError
from upernet.serving import Limits
from upernet.serving.run import bind, named, serve, url_of

pytestmark = [pytest.mark.slow, pytest.mark.process]

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
SERVE = [sys.executable, "-m", "upernet", "serve", "--no-browser", "--log", "json", "--port", "0"]


class Command:
    """`upernet serve` as a process, whose log is read in a thread."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None):
        self.process = subprocess.Popen(
            [*SERVE, *map(str, arguments)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def log(self, message: str) -> list[dict[str, object]]:
        parsed = (json.loads(line) for line in self.lines if line.startswith("{"))
        return [line for line in parsed if str(line["message"]).startswith(message)]

    def url(self) -> str:
        """Return the address, as soon as the server is ready."""
        until(lambda: self.log("serving") or self.process.poll() is not None, "the server starts")
        assert self.process.poll() is None, self.lines
        url = str(self.log("serving")[0]["url"])
        until(lambda: httpx.get(f"{url}ready", timeout=DEADLINE).status_code == 200, "the server is ready")
        return url

    def end(self) -> int:
        status = self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)
        return status


@contextmanager
def command(*arguments: object, environment: dict[str, str] | None = None) -> Iterator[Command]:
    started = Command(*arguments, environment=environment)
    try:
        yield started
    finally:
        started.process.kill()
        started.end()


LARGE = photo(500, 500, "JPEG")
"""A photo that takes the server some tenths of a second."""


@POSIX
def test_sigterm_under_load_answers_what_was_accepted(checkpoint: Path):
    def post(client: httpx.Client) -> int:
        answer = client.post("/v1/parse", content=LARGE, headers={"content-type": "image/jpeg"})
        return answer.status_code if answer.json().keys() >= {"object"} else 0

    with command("--model", checkpoint) as server:
        url = server.url()
        with httpx.Client(base_url=url, timeout=DEADLINE) as client, ThreadPoolExecutor(8) as threads:
            answers = [threads.submit(post, client) for _ in range(8)]

            def waiting() -> float:
                return float(httpx.get(f"{url}metrics").text.partition("\nupernet_waiting_photos ")[2].split()[0])

            until(lambda: waiting() >= 2, "photos wait")
            received = sum(future.done() for future in answers)
            server.process.send_signal(signal.SIGTERM)
            assert server.end() == 0
            assert received < 8
            assert [future.result() for future in answers] == [200] * 8
        assert len(server.log("request")) >= 8
        assert server.log("ending")[0]["signal"] == "SIGTERM" and server.log("ended")
        assert not [line for line in server.lines if "Traceback" in line or not line.startswith("{")]
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@POSIX
def test_a_second_signal_ends_at_once(checkpoint: Path):
    with command("--model", checkpoint, environment={"UPERNET_TOKEN": "s3cret"}) as server:
        url, headers = server.url(), {"content-type": "image/jpeg", "authorization": "Bearer s3cret"}
        assert httpx.get(f"{url}v1/models").status_code == 401

        def post() -> int:
            try:
                return httpx.post(f"{url}v1/parse", content=LARGE, headers=headers, timeout=DEADLINE).status_code
            except httpx.TransportError:
                return 0

        with ThreadPoolExecutor(20) as threads:
            answers = [threads.submit(post) for _ in range(20)]
            until(lambda: "POST" in repr(server.log("request")), "the first is answered")
            server.process.send_signal(signal.SIGINT)
            until(lambda: server.log("ending"), "the server is ending")
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 130
            assert {future.result() for future in answers} - {200} <= {0, 503}
        assert "Traceback" not in "".join(server.lines)
        assert server.log("interrupted") and "s3cret" not in repr(server.lines)


@POSIX
def test_ctrl_c_without_requests_ends_with_status_0(checkpoint: Path):
    with command("--model", checkpoint, "--model", checkpoint, "--batch", 2, "--max-mib", 1) as server:
        url = server.url()
        assert [model["name"] for model in httpx.get(f"{url}v1/models").json()] == ["colors", "colors-2"]
        answer = httpx.post(f"{url}v1/parse", content=photo(), headers={"content-type": "image/png"})
        assert answer.status_code == 200 and answer.json()["model"] == "colors"
        rebound = {"host": "evil.example", "origin": "http://evil.example"}
        assert httpx.get(f"{url}health", headers=rebound).status_code == 403
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 0


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return what a command that fails says, run in this process."""
    with pytest.raises(SystemExit) as end:
        main(["serve", "--no-browser", *map(str, arguments)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("upernet: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("token", "message"), [("", "UPERNET_TOKEN: is empty"), (" x", "without spaces at its ends"), ("\u00e9", "ASCII")]
)
def test_bad_tokens(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, token: str, message: str
):
    monkeypatch.setenv("UPERNET_TOKEN", token)
    assert message in failure(capsys, "--model", checkpoint)


def test_a_port_in_use_is_found_before_models_are_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = failure(capsys, "--model", tmp_path / "missing.safetensors", "--port", port)
    assert f"port {port}: is used by another program; end that one, or choose another port with --port." in error


def test_a_model_that_does_not_exist_is_an_error(capsys: pytest.CaptureFixture[str]):
    assert "everyday" in failure(capsys, "--model", "everydai", "--port", 0)


@pytest.mark.parametrize(
    ("host", "message"),
    [("no.such.host.invalid", "there is no such address"), ("192.0.2.1", "is not an address of this computer")],
)
def test_wrong_hosts(host: str, message: str):
    with pytest.raises(UpernetError, match=message):
        bind(host, 0)


def test_a_model_that_does_not_run_ends_the_server(checkpoint: Path):
    parser = GatedParser(upernet.load(checkpoint).model)
    parser.problem = RuntimeError("no kernel\nfor this")
    with pytest.raises(UpernetError, match=r"a model does not run \(RuntimeError: no kernel\\nfor this\)"):
        serve(bind("127.0.0.1", 0), {"colors": parser}, Limits())


def test_two_servers_cannot_have_one_port():
    with bind("127.0.0.1", 0) as bound, pytest.raises(UpernetError, match="is used by another program"):
        bind("127.0.0.1", bound.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "localhost"), ("0.0.0.0", "localhost"), ("::1", "localhost")]
)
def test_addresses(host: str, shown: str):
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6")
    with bind(host, 0) as bound:
        assert url_of(bound) == f"http://localhost:{bound.getsockname()[1]}/"


def test_names_of_models(checkpoint: Path):
    parser = upernet.load(checkpoint)
    cards = ["a model", "colors", "", "colors", "colors-2"]
    parsers = [upernet.Parser(parser.model, {"name": name}) for name in cards]
    assert list(named(parsers)) == ["a-model", "colors", "model", "colors-2", "colors-2-2"]
    assert np.array_equal(parsers[0](photo()).object.labels, parser(photo()).object.labels)
