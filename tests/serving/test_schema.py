"""Tests of the server with requests that Schemathesis makes from its OpenAPI document."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Served, gated_parser, served
from hypothesis import HealthCheck, given, settings

from upernet.serving import Limits

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

pytestmark = [pytest.mark.slow]
CASES = int(os.environ.get("UPERNET_SCHEMA_CASES", "25"))


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> Iterator[Served]:
    with served({"colors": gated_parser(checkpoint)}, Limits(pixels=1_000_000)) as running:
        yield running


def check(operation: Any) -> None:
    """Send requests that fit, and that do not fit, the description of an operation."""
    # No schema can say what an image is, so bodies that fit may be refused.
    excluded = [positive_data_acceptance] if operation.path == "/v1/parse" else []

    @settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=SLOW)
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        case.call_and_validate(excluded_checks=excluded)

    send()


def test_answers_are_those_of_the_document(plain: Served) -> None:
    document = schemathesis.openapi.from_url(f"{plain.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/parse", "/v1/models", "/health", "/metrics"}
    for operation in operations:
        check(operation)
