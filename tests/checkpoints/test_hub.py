"""Tests of upernet.checkpoints.hub and fetching: a local server that answers as the Hugging Face Hub does."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.web import (
    COMMIT,
    CONTENT,
    OTHER,
    Hub,
    Server,
    drop,
    fetch_with,
    files,
    lead_to,
    refuse,
)
from huggingface_hub import constants

from upernet.checkpoints import ZooEntry, find_checkpoint
from upernet.checkpoints.fetching import fetch
from upernet.checkpoints.hub import fetch_hub
from upernet.errors import UpernetError

HUB_ENTRY = ZooEntry(name="tiny", url="https://huggingface.co/owner/name/resolve/main/tiny.pth", license="free")
pytestmark = pytest.mark.usefixtures("home")


def tokens(server: Server) -> set[str | None]:
    """Return what the requests for contents of files said of the user."""
    asked = [{key.lower(): value for key, value in request.items()} for request in server.requests]
    return {request.get("authorization") for request in asked if not request["path"].startswith("/api/")}


@pytest.mark.process
@pytest.mark.slow
def test_the_environment_of_the_hub_s_client_holds(hub: Hub, home: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "HF_ENDPOINT": hub.base,
        "HF_HOME": str(tmp_path / "home of hf"),
        "HF_TOKEN": "hf_secret",
    }
    code = (
        "from upernet.checkpoints import ZooEntry, fetch, find_checkpoint\n"
        "print(find_checkpoint('hf://owner/name/tiny.pth'))\n"
        f"print(fetch(ZooEntry(name='tiny', url={HUB_ENTRY.url!r}, license='free')))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    cached = tmp_path / "home of hf" / "hub" / "models--owner--name" / "snapshots" / COMMIT / "tiny.pth"
    assert result.stdout.splitlines() == [str(cached), str(home / "tiny.pth")]
    assert tokens(hub) == {"Bearer hf_secret"}


def test_the_token_stays_on_the_hub(hub: Hub, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.script = [lead_to(f"{server.base}/store/tiny.pth"), refuse(404)]
    fetch(HUB_ENTRY).unlink()
    fetch(HUB_ENTRY.model_copy(update={"mirrors": (server.entry().url,)}))
    assert tokens(hub) == {"Bearer hf_secret"} and tokens(server) == {None}
    assert [request["path"] for request in server.requests] == ["/store/tiny.pth", "/weights/tiny.pth"]


def test_a_file_of_the_zoo_on_the_hub(hub: Hub, home: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(HUB_ENTRY, progress=lambda done, total: seen.append((done, total)))
    assert path == home / "tiny.pth" and path.read_bytes() == CONTENT and files(home) == ["tiny.pth", "tiny.pth.json"]
    assert seen == sorted(seen) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert json.loads((home / "tiny.pth.json").read_text())["url"] == HUB_ENTRY.url
    assert hub.asked == ["/owner/name/resolve/main/tiny.pth"]


def test_a_file_of_the_zoo_on_the_hub_is_resumed_by_the_next_call(hub: Hub, home: Path) -> None:
    hub.script = [drop(5000), drop(0)]
    with pytest.raises(UpernetError, match=r"the first 5000 bytes are kept"):
        fetch_with(HUB_ENTRY, retries=0)
    assert fetch(HUB_ENTRY).read_bytes() == CONTENT
    assert hub.requests[-1]["Range"] == "bytes=5000-" and hub.sent == len(CONTENT)


def test_a_file_of_the_zoo_that_the_hub_does_not_have(hub: Hub, home: Path) -> None:
    url = "https://huggingface.co/owner/name/resolve/main/other.pth"
    with pytest.raises(UpernetError, match=rf"^{re.escape(url)}: the server answered 404 Not Found; .* put it at "):
        fetch(ZooEntry(name="other", url=url, license="free"))
    mirrors = ("https://huggingface.co/owner/name/resolve/v1/tiny.pth",)
    entry = ZooEntry(
        name="tiny", url="https://huggingface.co/owner/name/resolve/v2/tiny.pth", mirrors=mirrors, license="free"
    )
    assert fetch(entry).read_bytes() == OTHER


def test_a_repository_with_one_checkpoint(hub: Hub, tmp_path: Path) -> None:
    path = find_checkpoint("hf://owner/name")
    assert path == tmp_path / "hf" / "models--owner--name" / "snapshots" / COMMIT / "tiny.pth"
    assert path.read_bytes() == CONTENT
    assert find_checkpoint("hf://owner/name/tiny.pth") == path
    assert find_checkpoint("hf://owner/name@v1").read_bytes() == OTHER
    assert find_checkpoint("hf://owner/name/tiny.pth@v1").read_bytes() == OTHER


def test_nothing_but_weights_and_names_of_classes_is_fetched(hub: Hub) -> None:
    folder = find_checkpoint("hf://owner/name").parent
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tiny.pth"]
    requests = len(hub.requests)
    for file in ("modeling.py", "tiny.pth.py", "../tiny.pth"):
        with pytest.raises(UpernetError, match=rf"hf://owner/name/{file}: "):
            fetch_hub("owner/name", file)
    assert len(hub.requests) == requests


def test_of_several_checkpoints_the_usual_one_is_taken(hub: Hub) -> None:
    files = hub.revisions["main"][1]
    files["folder/other.safetensors"] = OTHER
    with pytest.raises(UpernetError, match=r"found: tiny\.pth, folder/other\.safetensors.; add /FILE"):
        find_checkpoint("hf://owner/name")
    assert find_checkpoint("hf://owner/name/folder/other.safetensors").read_bytes() == OTHER
    files["model.safetensors"] = OTHER
    assert find_checkpoint("hf://owner/name").name == "model.safetensors"
    hub.revisions["v1"][1].clear()
    with pytest.raises(UpernetError, match=r"hf://owner/name@v1: the repository has no checkpoint \("):
        find_checkpoint("hf://owner/name@v1")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("hf://owner/name/absent.pth", "no such file in the repository"),
        ("hf://owner/name/tiny.pth@v2", "no such revision"),
        ("hf://owner/name@v2", "no such revision"),
        ("hf://nobody/nothing", "no such repository, or it is private"),
        ("hf://nobody/nothing/tiny.pth", "no such repository, or it is private"),
        ("hf://no body/nothing", "Repo id must "),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, reference: str, sentence: str) -> None:
    with pytest.raises(UpernetError, match=rf"^{re.escape(reference)}: {sentence}") as caught:
        find_checkpoint(reference)
    assert "\n" not in str(caught.value) and "Client Error" not in str(caught.value)


@pytest.mark.parametrize("reference", ["hf://owner/name", "hf://owner/name/tiny.pth"])
def test_a_repository_that_asks_for_consent(hub: Hub, reference: str) -> None:
    hub.gated = True
    with pytest.raises(UpernetError, match=rf"^{reference}: .* set HF_TOKEN"):
        find_checkpoint(reference)


@pytest.mark.parametrize("reference", ["hf://owner/name", "hf://owner/name/tiny.pth"])
@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "the token may not do this"), (403, "the token may not do this"), (451, "the server answered 451")],
)
def test_a_repository_that_is_refused(hub: Hub, reference: str, status: int, sentence: str) -> None:
    hub.refused = status
    with pytest.raises(UpernetError, match=rf"^{reference}: {sentence}") as caught:
        find_checkpoint(reference)
    assert "Client error" not in str(caught.value)


def test_a_server_that_is_not_the_hub(hub: Hub) -> None:
    hub.page = b"<html>Please log in</html>"
    with pytest.raises(
        UpernetError, match=r"^hf://owner/name: the server does not answer as the Hub does; check HF_EN"
    ):
        find_checkpoint("hf://owner/name")


@pytest.mark.parametrize("reference", ["hf://owner/name", "hf://owner/name/tiny.pth", "hf://owner/name@v1"])
def test_repositories_offline(hub: Hub, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    with pytest.raises(UpernetError, match=rf"^{reference}: not downloaded yet, and downloads are off"):
        find_checkpoint(reference)
    assert hub.requests == []
    monkeypatch.setenv("UPERNET_OFFLINE", "0")
    path = find_checkpoint(reference)
    requests = len(hub.requests)
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    assert find_checkpoint(reference) == path
    assert len(hub.requests) == requests


def test_repositories_without_a_connection(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del hub.revisions["main"][1]["config.json"]
    path = find_checkpoint("hf://owner/name")
    with Server() as closed:
        monkeypatch.setattr(constants, "ENDPOINT", closed.base)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", closed.base + "/{repo_id}/resolve/{revision}/{filename}"
        )
    client = logging.getLogger("huggingface_hub")
    client.addHandler(caplog.handler)
    try:
        assert find_checkpoint("hf://owner/name") == find_checkpoint("hf://owner/name/tiny.pth") == path
        with pytest.raises(UpernetError, match=r"absent\.pth: the Hub cannot be reached; check the connection"):
            find_checkpoint("hf://owner/name/absent.pth")
    finally:
        client.removeHandler(caplog.handler)
    assert "Retrying" not in caplog.text


@pytest.mark.parametrize("reference", ["hf://owner/name", "hf://owner/name/tiny.pth"])
def test_the_offline_mode_of_the_hub_s_client(hub: Hub, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UpernetError, match=r"tiny\.pth: downloads are off .HF_HUB_OFFLINE.; .* put it at "):
        fetch(HUB_ENTRY)
    with pytest.raises(UpernetError, match=rf"^{reference}: .*HF_HUB_OFFLINE"):
        find_checkpoint(reference)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path = find_checkpoint(reference)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint(reference) == path
