"""Facts about the published label sets, kept beside the repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from helpers.shared import REFERENCE


@pytest.fixture
def reference() -> Callable[[str], Any]:
    """Return a reader of the reference's JSON files by name; it skips the test where there is none."""

    def read(name: str) -> Any:
        path = REFERENCE / name
        if not path.is_file():
            pytest.skip(f"needs the reference facts in ../shared/reference/{name}")
        return json.loads(path.read_text(encoding="utf-8"))

    return read
