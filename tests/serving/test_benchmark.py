"""Tests of `benchmarks.serving`: a few seconds of overload, and what counts as a failure."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.serving import Outcome, attempt, percentiles

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow]


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_short_overload_has_no_failures(tmp_path: Path):
    out = tmp_path / "serving.json"
    command = [sys.executable, "-m", "benchmarks.serving", "--seconds", "1", "--threads", "1", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["failures"] == {} and result["exit_status"] == 0
    overload, memory = result["overload"], result["memory_mib"]
    assert overload["accepted"] > 0 and overload["photos_per_second"] > 0 and result["network_alone"] > 0
    assert 0 < overload["seconds"]["p50"] <= overload["seconds"]["p95"] <= overload["seconds"]["p99"]
    assert 0 < memory["over_time"][0][1] <= memory["peak"]


def outcome_of(status: int, headers: dict[str, str], content: object = None) -> tuple[Outcome, float | None]:
    def answer(_: httpx.Request) -> httpx.Response:
        if status == 0:
            raise httpx.ReadError("cut off")
        return httpx.Response(status, headers=headers, json=content)

    async def run() -> tuple[Outcome, float | None]:
        outcome = Outcome()
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://server") as client:
            return outcome, await attempt(client, b"", outcome)

    return asyncio.run(run())


def test_only_a_429_with_retry_after_is_honest():
    outcome, wait = outcome_of(429, {"retry-after": "7"})
    assert (outcome.refused, wait, outcome.failures) == (1, 7.0, {})
    for status, headers, failure in [
        (429, {}, "status 429"),
        (429, {"retry-after": "soon"}, "status 429"),
        (503, {"retry-after": "7"}, "status 503"),
        (0, {}, "ReadError"),
    ]:
        outcome, wait = outcome_of(status, headers)
        assert (outcome.refused, wait, dict(outcome.failures)) == (0, None, {failure: 1})
    outcome, _ = outcome_of(200, {}, {"maps": {}})  # an answer without its label maps
    assert dict(outcome.failures) == {"status 200": 1}
    outcome, _ = outcome_of(200, {}, {"maps": dict.fromkeys(("object", "part", "material", "texture"))})
    assert len(outcome.seconds) == 1 and not outcome.failures


def test_percentiles():
    assert percentiles([number / 100 for number in range(101)]) == {
        "p50": 0.5,
        "p95": 0.95,
        "p99": 0.99,
        "highest": 1.0,
    }
