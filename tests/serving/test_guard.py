"""Tests of the HTTP interface: tokens, origins, headers and the ids of requests."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from helpers.server import (
    PARSE,
    GatedParser,
    Served,
    post,
    read_answer,
    served,
)

import upernet
from upernet.serving import create_app
from upernet.serving.guard import HEADERS

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
