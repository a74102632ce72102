"""Tests of the HTTP interface: how many photos wait, for how long, and who leaves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from helpers.server import (
    DEADLINE,
    GatedParser,
    Served,
    head,
    photo,
    post,
    served,
    until,
)

from upernet.serving import Limits


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
