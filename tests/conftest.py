"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.color_checkpoint import save_color_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model that reads classes off colors."""
    path = tmp_path_factory.mktemp("model") / "colors.safetensors"
    save_color_checkpoint(path)
    return path
