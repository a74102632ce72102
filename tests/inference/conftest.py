from __future__ import annotations

from typing import cast

import pytest
from helpers.painted_network import PaintedNetwork

from upernet.inference import Parser
from upernet.models import UPerNet


@pytest.fixture
def network() -> PaintedNetwork:
    return PaintedNetwork()


@pytest.fixture
def parser(network: PaintedNetwork) -> Parser:
    return Parser(cast(UPerNet, network), {"name": "painted"})
