"""Tests of the HTTP interface: bodies in chunks, cut off, slow, damaged or too large."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from helpers.server import (
    PARSE,
    PNG,
    GatedParser,
    Served,
    error_of,
    head,
    photo,
    post,
    read_answer,
    served,
    until,
)
from PIL import Image, PngImagePlugin

from upernet.serving import Limits


def test_chunked_bodies(client: httpx.Client):
    content = photo()
    pieces = (content[start : start + 100] for start in range(0, len(content), 100))
    assert client.post(PARSE, content=pieces, headers=PNG).status_code == 200
    endless = (bytes(2**16) for _ in range(40))
    answer = client.post(PARSE, content=endless, headers=PNG)
    assert answer.status_code == 413


def test_a_large_length_is_refused_before_the_body_is_sent(server: Served):
    for length in (2**21, 10**18):
        with server.connect() as connection:
            connection.sendall(head("Content-Type: image/png", f"Content-Length: {length}", "Expect: 100-continue"))
            status, headers, body = read_answer(connection)
            assert status == 413 and "more than 1 MiB" in error_of(body)
            assert headers["connection"] == "close" and connection.recv(1) == b""
    with server.connect() as connection:
        connection.sendall(head("Content-Type: image/png", f"Content-Length: {2**40}"))
        assert read_answer(connection)[0] == 413


def test_the_body_is_asked_for_where_the_client_waits(server: Served):
    content = photo()
    with server.connect() as connection:
        connection.sendall(head("Content-Type: image/png", f"Content-Length: {len(content)}", "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(content)
        assert read_answer(connection)[0] == 200


def test_clients_that_send_all_before_they_read_get_the_refusal(server: Served):
    """As urllib does, which also asks for the connection to be closed."""
    body = bytes(3 * 2**20)
    for lines in (["Connection: close"], []):
        with server.connect() as connection:
            connection.sendall(head("Content-Type: image/png", f"Content-Length: {len(body)}", *lines))
            connection.sendall(body)
            status, _, answer = read_answer(connection)
            assert status == 413 and "more than 1 MiB" in error_of(answer)


@pytest.mark.parametrize("lines", [["Content-Length: 1000"], ["Transfer-Encoding: chunked"]])
def test_cut_uploads_leave_nothing_behind(server: Served, lines: list[str]):
    before = server.metric("upernet_requests_total", status="499")
    with server.connect() as connection:
        connection.sendall(head("Content-Type: image/png", *lines) + b"10\r\n0123456789abcdef\r\n")
        until(lambda: server.metric("upernet_held_bytes") > 0, "the body is being received")
    until(lambda: server.metric("upernet_requests_total", status="499") == before + 1, "the request has ended")
    assert server.metric("upernet_held_bytes") == 0


def test_slow_bodies_are_refused(colors: GatedParser):
    with served({"colors": colors}, Limits(upload_seconds=0.3)) as server, server.connect() as connection:
        connection.sendall(head("Content-Type: image/png", "Content-Length: 1000") + b"slow")
        status, headers, body = read_answer(connection)
        assert status == 408 and "did not arrive within 0.3 seconds" in error_of(body)
        assert headers["connection"] == "close" and connection.recv(1) == b""
        assert server.metric("upernet_held_bytes") == 0


@pytest.mark.parametrize("sent", [b"", b"POST /v1/parse HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"])
def test_slow_heads_are_cut_off(colors: GatedParser, sent: bytes):
    with served({"colors": colors}, head_seconds=0.3) as server, server.connect() as connection:
        connection.sendall(sent)
        if sent.startswith(b"GET"):
            assert read_answer(connection)[0] == 200
        assert read_answer(connection)[0] == 0
        until(lambda: not server.server.server_state.connections, "the connection is gone")


def test_clients_that_do_not_read_are_cut_off(colors: GatedParser):
    with served({"colors": colors}, request_seconds=1) as server, server.connect() as connection:
        file = b"GET /assets/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(20 * file)  # more than fits into the buffers of the system
        until(lambda: server.server.server_state.connections, "the connection is taken")
        until(lambda: not server.server.server_state.connections, "the connection is gone")


def test_damaged_requests(server: Served):
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100):
        with server.connect() as connection:
            connection.sendall(sent + b"\r\n\r\n")
            assert read_answer(connection)[0] in (0, 400)
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2**18)
        assert read_answer(connection)[0] == 400
    with server.connect() as connection:
        connection.sendall(head("Content-Type: image/png", "Transfer-Encoding: chunked") + b"zz\r\n")
        assert read_answer(connection)[0] in (0, 400)


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG of many pixels, which is not read to its end by those that only look at its size."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_bombs_are_refused_without_being_decoded(client: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    loaded: list[str] = []
    load = PngImagePlugin.PngImageFile.load

    def noted(self: PngImagePlugin.PngImageFile) -> Any:
        loaded.append("loaded")
        return load(self)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", noted)
    content = bomb(13_000, 8_000)
    assert len(content) < 30_000
    answer = post(client, content)
    assert answer.status_code == 413 and "104 megapixels" in answer.json()["error"]
    assert post(client, bomb(14_000, 13_000)).status_code == 422  # more than Pillow opens
    assert loaded == []
    assert post(client).status_code == 200 and loaded


HEADS = {
    "JPEG of empty comments": b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000,
    "JPEG of padding": b"\xff\xd8" + b"\xff" * 400_000,
    "PNG of empty chunks": photo()[:33] + b"\0\0\0\0abcd\xed\x82\xcd\x11" * 30_000,
    "PPM of comments": b"P6\n" + b"#\n" * 200_000,
}


@pytest.mark.parametrize("name", HEADS)
def test_endless_headers_are_refused(client: httpx.Client, name: str):
    answer = post(client, HEADS[name])
    assert answer.status_code == 422 and "too many parts" in answer.json()["error"]
