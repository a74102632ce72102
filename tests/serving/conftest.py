from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.server import GatedParser, Served, gated_parser, served

from upernet.serving import Limits

LIMITS = Limits(queue=4, batch=2, body=2**20, held=8 * 2**20, pixels=1_000_000, upload_seconds=5, seconds=30)


@pytest.fixture(scope="session")
def colors(checkpoint: Path) -> GatedParser:
    return gated_parser(checkpoint)


@pytest.fixture(scope="module")
def server(colors: GatedParser) -> Iterator[Served]:
    """Run a server with small limits, whose model knows three colors."""
    with served({"colors": colors}, LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened
