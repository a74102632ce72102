"""Servers for the tests of downloads, and a folder for what they fetch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.web import (
    Hub,
    Server,
    running,
)
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from upernet.checkpoints import http


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Put a server in place of the Hub. The client reads HF_ENDPOINT at import, so its constants are set here."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with running(Hub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.base)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.base + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        yield hub


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("UPERNET_OFFLINE", "UPERNET_MIRROR", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(http, "DELAY", 0.0)
    close_session()  # the client reads the environment when it is created
    return tmp_path / "home" / "checkpoints"
