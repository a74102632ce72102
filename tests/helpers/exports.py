"""Exported files that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

CARD = {"name": "tiny", "short_side": 96, "thresholds": {"object": 0.3}, "temperatures": {"object": 1.5}}


def written_once(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], object]) -> Path:
    """Return a folder with what `write` puts there; of the processes that run the tests, the first one calls it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not folder.is_dir():
            partial = root / f"{name}.partial"
            partial.mkdir()
            write(partial)
            partial.rename(folder)
    return folder
