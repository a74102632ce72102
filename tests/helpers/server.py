"""Servers for tests: a small network that knows three colors, in a server that listens, and photos for it."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from helpers.color_network import BLUE, GREEN, RED
from PIL import Image

import upernet
from upernet.inference import Parse, Parser
from upernet.inference.video.smoothing import Smoother
from upernet.serving import Limits, create_app
from upernet.serving.protocol import impatient
from upernet.serving.run import bind

DEADLINE = 60.0
"""Seconds for which tests wait for what must happen."""
PARSE = "/v1/parse"
PNG = {"content-type": "image/png"}


class GatedParser(Parser):
    """A parser that can be held up before each pass, and counts the photos that went through it."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.problem: Exception | None = None

    def close_gate(self) -> None:
        self.entered.clear()
        self.gate.clear()

    def parse_batch(
        self,
        photos: Sequence[tuple[Image.Image, str | None]],
        levels: Sequence[str],
        probabilities: bool = False,
        smoother: Smoother | None = None,
    ) -> list[Parse | upernet.UpernetError]:
        self.batches.append(len(photos))
        self.entered.set()
        assert self.gate.wait(DEADLINE)
        if self.problem is not None:
            raise self.problem
        return super().parse_batch(photos, levels, probabilities, smoother)


def gated_parser(checkpoint: Path) -> GatedParser:
    return GatedParser(upernet.load(checkpoint).model)


def photo(width: int = 96, height: int = 64, form: str = "PNG", colors: Sequence[tuple[int, int, int]] = ()) -> bytes:
    """Return an image file with vertical stripes of colors: those that the network knows."""
    stripes = colors or (RED, GREEN, BLUE)
    pixels = np.empty((height, width, 3), np.uint8)
    for number, color in enumerate(stripes):
        pixels[:, number * width // len(stripes) :] = color
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition, for `DEADLINE` seconds at most."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"this did not happen: {what}"
        time.sleep(0.002)


class Served:
    """A server that listens in a thread of this process."""

    def __init__(
        self,
        parsers: dict[str, Parser],
        limits: Limits | None = None,
        *,
        head_seconds: float = DEADLINE,
        request_seconds: float = 2 * DEADLINE,
        **options: Any,
    ):
        self.socket = bind("127.0.0.1", 0)
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = create_app(parsers, limits, **options)
        self.engine: Any = app.state.engine
        http = impatient(request_seconds, head_seconds)
        options = {"log_config": None, "access_log": False, "timeout_keep_alive": 2 * DEADLINE}
        self.server = uvicorn.Server(uvicorn.Config(app, http=http, ws="none", **options))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric."""
        with self.client() as client:
            text = client.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(part in line for part in wanted))

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


@contextmanager
def served(parsers: dict[str, Parser], limits: Limits | None = None, **options: Any) -> Iterator[Served]:
    """Run a server in a thread."""
    server = Served(parsers, limits, **options)
    server.thread.start()
    until(lambda: server.server.started and server.engine.is_ready, "the server is ready")
    try:
        yield server
    finally:
        server.stop()
        server.socket.close()


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read the answer to a request that was written by hand: status, headers and body; 0: the connection was closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        try:
            chunk = connection.recv(2**16)
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            return 0, {}, received
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)) and (chunk := connection.recv(2**16)):
        body += chunk
    return int(first.split()[1]), headers, body


def error_of(body: bytes) -> str:
    return json.loads(body)["error"]


def post(client: httpx.Client, content: bytes | None = None, **query: Any) -> httpx.Response:
    """Ask for the parse of a photo."""
    return client.post(PARSE, params=query, content=photo() if content is None else content, headers=PNG)


def head(*lines: str, path: str = PARSE) -> bytes:
    """Return the head of a request that a test sends by itself."""
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", "")).encode("latin-1")
