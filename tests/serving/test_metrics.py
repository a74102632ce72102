"""Tests of the HTTP interface: what is counted and logged, what is freed, and an orderly end."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from helpers.server import (
    DEADLINE,
    PARSE,
    GatedParser,
    Served,
    photo,
    post,
    served,
    until,
)

from upernet.inference import Parse
from upernet.serving.engine import Answer


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
        client.get("/metrics")
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
