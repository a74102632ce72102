"""Tests of the HTTP interface: one sentence and a status for what cannot be parsed, and hostile forms."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from helpers.server import (
    PARSE,
    PNG,
    photo,
)

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
