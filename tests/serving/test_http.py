"""Tests of the HTTP interface: answers, refusals, uploads of every kind, the guard, metrics and the log."""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import re
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from helpers.server import DEADLINE, GatedParser, Served, error_of, photo, read_answer, served, until
from PIL import Image, PngImagePlugin

import upernet
from upernet.inference import Parse
from upernet.inference.label_map import UNSURE
from upernet.rle import decode
from upernet.serving import Limits, create_app
from upernet.serving.engine import Answer
from upernet.serving.guard import HEADERS

PARSE = "/v1/parse"
PNG = {"content-type": "image/png"}


def post(client: httpx.Client, content: bytes | None = None, **query: Any) -> httpx.Response:
    return client.post(PARSE, params=query, content=photo() if content is None else content, headers=PNG)


def head(*lines: str, path: str = PARSE) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", "")).encode("latin-1")


@pytest.fixture
def expected(colors: GatedParser) -> upernet.Parse:
    """Return what the parser alone says of the photo."""
    return colors(photo())


# Answers


def test_json_is_the_parse(client: httpx.Client, expected: upernet.Parse):
    answer = post(client)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    found = answer.json()
    alone = json.loads(json.dumps(expected.to_dict()))
    assert {key: found[key] for key in alone if key != "path"} == {key: alone[key] for key in alone if key != "path"}
    assert found["path"] is None and found["levels"] == list(expected.levels)
    assert found["seconds"]["batch"] == 1 and found["seconds"]["network"] > 0
    assert re.fullmatch(r"queue;dur=[\d.]+, network;dur=[\d.]+", answer.headers["server-timing"])
    assert answer.headers["cache-control"] == "no-store"


def test_what_json_can_include(client: httpx.Client, expected: upernet.Parse):
    found = post(client, include=["labels", "confidence", "pixels", "rle", "photo"]).json()

    def image(text: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)

    assert image(found["photo"]).shape == (64, 96, 3)
    assert set(found["maps"]) == set(expected.maps)
    for level, label_map in expected.maps.items():
        maps = found["maps"][level]
        labels = np.where(label_map.labels == UNSURE, 255, label_map.labels)
        assert (image(maps["labels"]) == labels).all()
        assert abs(image(maps["confidence"]) - 255 * label_map.confidence).max() <= 0.5
        red, green, blue = np.moveaxis(image(maps["pixels"]), 2, 0)
        coded = red + 256 * green
        assert (np.where(coded == 65535, UNSURE, coded) == label_map.labels).all()
        assert abs(blue - 255 * label_map.confidence).max() <= 0.5
        for run in maps["rle"]:
            assert (decode(run["segmentation"]) == label_map.mask(run["name"])).all()
        assert sum(decode(run["segmentation"]).sum() for run in maps["rle"]) == label_map.labels.size


def test_png_is_the_label_map_of_a_level(client: httpx.Client, expected: upernet.Parse):
    for levels, level in ("object,part", "object"), ("material", "material"), ("scene,part", "part"):
        answer = post(client, format="png", levels=levels)
        assert answer.headers["content-type"] == "image/png"
        labels = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
        assert (np.where(labels == 255, UNSURE, labels) == expected[level].labels).all()


def test_coco_has_the_regions_of_a_level(client: httpx.Client, expected: upernet.Parse):
    found = post(client, format="coco", levels="texture").json()
    assert found == json.loads(json.dumps(expected.to_coco("texture")))


def test_zip_has_the_files_of_a_parse(client: httpx.Client, expected: upernet.Parse, tmp_path: Path):
    files = {"file": ("my photo.png", photo(), "image/png")}
    answer = client.post(PARSE, params={"format": "zip"}, files=files)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="my photo.zip"'
    saved = expected.save(tmp_path)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in saved.iterdir())
        assert archive.read("object.png") == (saved / "object.png").read_bytes()
        assert json.loads(archive.read("parse.json"))["path"] == "my photo.png"


def test_a_zip_whose_temporary_folder_cannot_be_written_says_so(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    answer = post(client, format="zip")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "60"
    assert "temporary folder of the server" in answer.json()["error"]
    assert str(tmp_path) not in answer.text


def test_levels_and_max_side(client: httpx.Client):
    found = post(client, levels=["texture,scene", "object"], max_side=48).json()
    assert found["levels"] == ["scene", "object", "texture"]
    assert (found["width"], found["height"]) == (48, 32)


def test_models(client: httpx.Client, colors: GatedParser):
    (model,) = client.get("/v1/models").json()
    assert model["name"] == "colors" and model["default"]
    assert [level["name"] for level in model["levels"]] == list(colors.levels)
    details = client.get("/v1/models/colors").json()
    assert details["taxonomy"] == json.loads(json.dumps(colors.model.taxonomy.to_dict()))
    assert client.get("/v1/models/other").status_code == 404


def test_health_readiness_and_documents(client: httpx.Client):
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/ready").json()["status"] == "ready"
    assert "swagger" in client.get("/docs").text
    assert client.get("/assets/swagger/swagger-ui.css").status_code == 200
    assert client.get("/openapi.json").json()["openapi"].startswith("3.1")
    examples = client.get("/v1/examples").json()
    assert client.get(f"/assets/examples/{examples[0]}").headers["content-type"] == "image/jpeg"


# Refusals

REFUSED = [
    (b"", PNG, {}, 400, "the photo is empty"),
    (b"no photo", PNG, {}, 422, "not an image"),
    (photo()[:-40], PNG, {}, 422, "damaged or truncated"),
    (photo(), {"content-type": "text/plain"}, {}, 415, "'text/plain' is not accepted"),
    (photo(), {"content-type": ""}, {}, 415, "is not accepted"),
    (photo(), {"content-type": "application/json\u00e9"}, {}, 415, "is not accepted"),
    (bytes(2**20 + 1), PNG, {}, 413, "more than 1 MiB"),
    (photo(1001, 1000), PNG, {}, 413, "1 megapixels, more than the 1"),
    (photo(), PNG, {"model": "other"}, 404, "it has colors"),
    (photo(), PNG, {"model": "\x1b[31m\n" * 1000}, 404, r"\\x1b"),
    (photo(), PNG, {"levels": "objects"}, 422, "objects"),
    (photo(), PNG, {"format": "gif"}, 422, "format: "),
    (photo(), PNG, {"include": "everything"}, 422, "include.0: "),
    (photo(), PNG, {"max_side": 1}, 422, "max_side: "),
    (photo(), PNG, {"max_side": "9" * 5000}, 422, "max_side: "),
    (photo(), PNG, {"format": "png", "levels": "scene"}, 422, "name one in `levels`"),
    (photo(), PNG, {"format": "coco", "levels": "part,material"}, 422, "name one in `levels`"),
    (photo(), {"content-type": "multipart/form-data"}, {}, 400, "its boundary is missing"),
    (photo(), {"content-type": f"multipart/form-data; boundary={'x' * 71}"}, {}, 400, "longer than 70"),
    (photo(), {"content-type": "multipart/form-data; boundary=x"}, {}, 400, "the form cannot be read"),
    (b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}, {}, 422, "no file in the field 'file'"),
]


@pytest.mark.parametrize(("content", "headers", "query", "status", "message"), REFUSED)
def test_refusals_say_why_in_one_sentence(
    client: httpx.Client, content: bytes, headers: dict[str, str], query: dict[str, Any], status: int, message: str
):
    sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    answer = client.post(PARSE, params=query, content=content, headers=sent)
    assert answer.status_code == status
    error = answer.json()
    assert re.search(message, error["error"]) and error["error"].isprintable() and len(error["error"]) < 400
    assert error["request_id"] == answer.headers["x-request-id"]


FORMS: list[tuple[dict[str, Any], int, str]] = [
    ({"files": {"photo": ("a.png", photo())}}, 422, "no file in the field 'file'"),
    ({"files": [("file", ("a.png", photo())), ("file", ("b.png", photo()))]}, 400, "Too many files"),
    ({"files": {"file": ("a.png", photo()), "other": ("b.png", photo())}}, 400, "Too many files"),
    ({"files": {"file": ("a.png", photo())}, "data": {f"field{n}": "x" for n in range(9)}}, 400, "Too many fields"),
    ({"files": {"file": ("a.png", photo())}, "data": {"field": "x" * 70_000}}, 400, "maximum size of 64KB"),
    ({"files": {"file": ("a.png", b"")}}, 400, "the photo is empty"),
]


@pytest.mark.parametrize(("form", "status", "message"), FORMS)
def test_bad_forms(client: httpx.Client, form: dict[str, Any], status: int, message: str):
    answer = client.post(PARSE, **form)
    assert answer.status_code == status and message in answer.json()["error"]


def test_a_form_without_a_file_name_has_no_file(client: httpx.Client):
    body = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"text" + b"\r\n--x--\r\n"
    answer = client.post(PARSE, content=body, headers={"content-type": 'multipart/form-data; boundary="x"'})
    assert answer.status_code == 422 and "no file" in answer.json()["error"]


NAMES = {
    "../../etc/passwd": "passwd",
    r"C:\photos\cat.png": "cat.png",
    "é" * 300: "é" * 200,
    "\u202egnp.exe": r"\u202egnp.exe",
    "a\u2028b": r"a\u2028b",
    "...": "...",
    "a;b.png": "a;b.png",
}


@pytest.mark.parametrize("form", ["json", "zip"])
@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_of_files(client: httpx.Client, name: str, form: str):
    answer = client.post(PARSE, params={"format": form}, files={"file": (name, photo(), "image/png")})
    assert answer.status_code == 200
    if form == "json":
        assert answer.json()["path"] == NAMES[name]
    else:
        assert re.fullmatch(r'attachment; filename="[ -~]+\.zip"', answer.headers["content-disposition"])


@pytest.mark.parametrize("charset", ["unicode_escape", "zip", "utf-7", "undefined", "idna", "rot13"])
def test_the_charset_of_a_form_chooses_no_codec(client: httpx.Client, charset: str):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="\\ud800.png"\r\n\r\n' + photo()
    sent = {"content-type": f"multipart/form-data; charset={charset}; boundary=x"}
    answer = client.post(PARSE, content=body + b"\r\n--x--\r\n", headers=sent)
    assert answer.status_code == 200 and "ud800.png" in answer.json()["path"]


# Uploads


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


# The queue


def wait_in_queue(server: Served, count: int) -> None:
    until(lambda: server.engine.waiting == count, f"{count} photos wait")


def test_a_full_queue_is_answered_with_429(server: Served, client: httpx.Client, colors: GatedParser):
    colors.close_gate()
    with ThreadPoolExecutor(5) as threads:
        futures = [threads.submit(post, client)]
        assert colors.entered.wait(DEADLINE)  # alone: those that follow would share its pass
        futures += [threads.submit(post, client) for _ in range(4)]
        wait_in_queue(server, 4)
        refused = post(client)
        assert refused.status_code == 429 and "the queue is full" in refused.json()["error"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        colors.gate.set()
        assert [future.result().status_code for future in futures] == [200] * 5


def test_too_many_bytes_are_answered_with_429(colors: GatedParser):
    content = photo(500, 500)
    with served({"colors": colors}, Limits(held=750_000)) as server, server.client() as client:
        colors.close_gate()
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(post, client, content, include="pixels")  # 0.5 MB are expected
            assert colors.entered.wait(DEADLINE)
            refused = post(client, content, include="pixels")
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            colors.gate.set()
            assert first.result().status_code == 200
        assert post(client, content, include="pixels").status_code == 200
        until(lambda: server.metric("upernet_held_bytes") == 0, "nothing is held")


def test_a_client_that_goes_away_takes_its_photo_out_of_the_queue(server: Served, colors: GatedParser):
    colors.close_gate()
    content = photo()
    request = head("Content-Type: image/png", f"Content-Length: {len(content)}") + content
    before, photos = server.metric("upernet_requests_total", status="499"), len(colors.batches)
    first, second = server.connect(), server.connect()
    first.sendall(request)
    assert colors.entered.wait(DEADLINE)
    second.sendall(request)
    wait_in_queue(server, 1)
    second.close()
    wait_in_queue(server, 0)
    first.close()  # while its photo is in the network
    until(lambda: server.metric("upernet_requests_total", status="499") == before + 2, "both requests have ended")
    colors.gate.set()
    until(lambda: server.engine.in_memory == 0, "all memory is free")
    assert len(colors.batches) == photos + 1
    assert server.metric("upernet_held_bytes") == 0


def test_a_photo_that_takes_too_long_is_given_up(colors: GatedParser):
    with served({"colors": colors}, Limits(seconds=0.3)) as server, server.client() as client:
        colors.close_gate()
        answer = post(client)
        assert answer.status_code == 503 and "not parsed within 0.3 seconds" in answer.json()["error"]
        assert answer.headers["retry-after"] == "5"
        colors.gate.set()
        until(lambda: server.engine.in_memory == 0, "all memory is free")


def test_a_defect_is_answered_with_500_and_logged(
    client: httpx.Client, colors: GatedParser, caplog: pytest.LogCaptureFixture
):
    colors.problem = RuntimeError("a defect")
    try:
        answer = post(client)
    finally:
        colors.problem = None
    assert answer.status_code == 500 and answer.headers["content-security-policy"]
    error = answer.json()
    assert "its log has the reason" in error["error"] and "defect" not in answer.text
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.fields["id"] == error["request_id"] == answer.headers["x-request-id"]  # type: ignore[attr-defined]
    assert post(client).status_code == 200


# The guard

TOKEN = "s3cret"


@pytest.fixture(scope="module")
def guarded(colors: GatedParser) -> Iterator[Served]:
    with served({"colors": colors}, token=TOKEN, origins=["https://example.org"], hosts={"127.0.0.1"}) as running:
        yield running


GIVEN = [None, b"", b"Bearer", b"Bearer wrong", b"Basic s3cret", "Bearer s3crét".encode(), b"Bearer \xff"]


@pytest.mark.parametrize("given", GIVEN)
def test_wrong_tokens(guarded: Served, given: bytes | None):
    with guarded.client() as client:
        headers = {} if given is None else {b"authorization": given}
        for path in ("/v1/models", "/metrics", "/v1/examples", "/nothing"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in answer.json()["error"]
        assert (
            client.post(PARSE, content=bytes(2**20), headers={b"content-type": b"image/png", **headers}).status_code
            == 401
        )


def test_the_right_token_and_what_needs_none(guarded: Served):
    with guarded.client() as client:
        for given in ("Bearer s3cret", "bearer  s3cret"):
            assert client.get("/v1/models", headers={"authorization": given}).status_code == 200
        for path in ("/", "/health", "/ready", "/docs", "/openapi.json", "/assets/docs.js"):
            assert client.get(path).status_code == 200
        document = client.get("/openapi.json").json()
        assert document["security"] == [{"token": []}] and document["paths"]["/health"]["get"]["security"] == []


def test_tokens_of_other_alphabets(colors: GatedParser):
    with served({"colors": colors}, token="пароль") as server, server.client() as client:
        assert client.get("/v1/models", headers={b"authorization": "Bearer пароль".encode()}).status_code == 200
        assert client.get("/v1/models", headers={"authorization": "Bearer parol"}).status_code == 401


def test_an_empty_token_is_no_token(colors: GatedParser):
    with pytest.raises(upernet.UpernetError, match="the token is empty"):
        create_app({"colors": colors}, token="")
    with pytest.raises(upernet.UpernetError, match="needs a model"):
        create_app({})


def test_origins(guarded: Served):
    own = f"http://127.0.0.1:{guarded.port}"
    rebound = f"evil.example:{guarded.port}"
    allowed = {None: None, own: None, "https://example.org": None}
    refused = {"null": None, "http://[": None, "https://example.org.evil": None, f"http://{rebound}": rebound, "": None}
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        for status, origins in ((200, allowed), (403, refused)):
            for origin, host in origins.items():
                headers = {} if origin is None else {"origin": origin}
                answer = client.get("/v1/models", headers=headers | ({"host": host} if host else {}))
                assert answer.status_code == status, origin
    with guarded.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\nOrigin: null\r\n\r\n")  # and no Host
        assert read_answer(connection)[0] == 403


def test_pages_of_allowed_sites(guarded: Served):
    site = {"origin": "https://example.org"}
    ask = {**site, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with guarded.client() as client:
        preflight = client.options(PARSE, headers=ask)  # which never has a token
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://example.org"
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        refused = client.get("/v1/models", headers=site)
        assert refused.status_code == 401  # and the page can read why
        assert refused.headers["access-control-allow-origin"] == "https://example.org"
        assert client.options(PARSE, headers={**ask, "origin": "https://evil.example"}).status_code == 403


def test_without_allowed_sites_there_is_no_cors(client: httpx.Client, server: Served):
    own = {"origin": server.url, "access-control-request-method": "POST"}
    assert client.options(PARSE, headers=own).status_code == 405
    assert "access-control-allow-origin" not in client.get("/health", headers=own).headers


def test_every_answer_has_the_security_headers(server: Served, client: httpx.Client, guarded: Served):
    with guarded.client() as other:
        answers = [
            *(client.get(path) for path in ("/", "/docs", "/health", "/assets/docs.js", "/nothing", "/assets/nothing")),
            *(client.get(f"/assets/{path}") for path in ("%00", "..%2f..%2fapp.py", "a" * 5000, "%ff", "swagger")),
            client.get("/assets/examples/..%2f..%2fsecret"),
            client.delete(PARSE),
            post(client, b"no photo"),
            client.get("/health", headers={"origin": "null"}),
            other.get("/metrics"),
        ]
    assert {answer.status_code for answer in answers} == {200, 401, 403, 404, 405, 422}
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]
        if answer.status_code >= 400:
            assert set(answer.json()) == {"error", "request_id"}


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2_X", True), ("", False), ("a b", False), ("x" * 65, False), ("é", False)]
)
def test_request_ids(client: httpx.Client, given: str, kept: bool):
    answer = client.get("/health", headers={b"x-request-id": given.encode("latin-1")})
    assert (answer.headers["x-request-id"] == given) == kept
    assert re.fullmatch(r"[\w.-]+", answer.headers["x-request-id"], re.ASCII)


# Metrics and the log


def test_metrics_count_photos_and_pixels(server: Served, client: httpx.Client):
    names = ("upernet_photos_total", "upernet_pixels_total", "upernet_batch_photos_count")
    before = [server.metric(name) for name in names]
    assert post(client).status_code == 200
    assert [server.metric(name) - old for name, old in zip(names, before, strict=True)] == [1, 96 * 64, 1]
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


def test_clients_cannot_add_series_to_the_metrics(client: httpx.Client):
    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in client.get("/metrics").text.splitlines() if line[0] != "#"}

    def visit(number: int) -> None:
        client.get(f"/{number}")
        client.get(f"/v1/models/{number}")
        client.get(f"/assets/{number}")
        client.get(f"/assets/examples/{number}")
        client.request(f"METHOD{number}", "/health")
        client.get("/health", headers={"origin": f"http://{number}"})
        client.post(PARSE, params={"model": f"{number}"})

    visit(0)
    before = series()
    for number in range(1, 5):
        visit(number)
    assert series() == before


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    with caplog.at_level(logging.INFO, "upernet.serving"):
        handler = logging.Handler()
        handler.emit = lambda record: found.append(getattr(record, "fields", {}))  # type: ignore[method-assign]
        logging.getLogger("upernet.serving").addHandler(handler)
        yield found
        logging.getLogger("upernet.serving").removeHandler(handler)


def test_the_log_has_a_line_for_each_request_without_names_of_files(
    client: httpx.Client, lines: list[dict[str, Any]], server: Served
):
    ids = []
    for content in (photo(), b"no photo", photo()[:-40], photo(1001, 1000)):
        answer = client.post(PARSE, files={"file": ("secret.png", content, "image/png")})
        ids.append(answer.headers["x-request-id"])

    def own() -> list[dict[str, Any]]:
        """Return the lines of these requests; the line of an earlier test's last request may come late."""
        return [line for line in lines if line["id"] in ids]

    until(lambda: len(own()) >= 4, "the log is written")
    assert [line["id"] for line in own()] == ids
    assert [line["status"] for line in own()] == [200, 422, 422, 413]
    assert "secret" not in repr(lines)
    first, second = own()[:2]
    assert first["model"] == "colors" and first["batch"] == 1 and first["network_ms"] >= 0
    assert "not an image" in str(second["refused"])


def test_an_answer_that_was_sent_is_freed_at_once(client: httpx.Client, server: Served):
    """Without the garbage collector, which may not run for hundreds of requests."""

    def kept() -> int:
        return sum(type(thing) in (Answer, Parse) for thing in gc.get_objects())

    gc.collect()
    before = kept()
    gc.disable()
    try:
        for content in (photo(), photo(80, 40), photo()[:-40]):
            client.post(PARSE, params={"include": "pixels"}, files={"file": ("photo.png", content, "image/png")})
        until(lambda: kept() == before, "no answer is left")
    finally:
        gc.enable()


def test_a_server_that_ends_answers_what_it_has_accepted(colors: GatedParser):
    with served({"colors": colors}) as server:
        colors.close_gate()
        with server.client() as client, ThreadPoolExecutor(3) as threads:
            futures = [threads.submit(post, client) for _ in range(3)]
            assert colors.entered.wait(DEADLINE)
            until(lambda: server.engine.in_memory == 3 * 96 * 64, "all three are accepted")
            ending = threading.Thread(target=server.stop)
            ending.start()
            until(lambda: not server.server.servers[0].is_serving(), "no further connections are taken")
            colors.gate.set()
            assert [future.result().status_code for future in futures] == [200] * 3
        ending.join(DEADLINE)
