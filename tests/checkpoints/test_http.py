"""Tests of upernet.checkpoints.http and fetching for plain URLs: a local server that can do everything wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.web import (
    CONTENT,
    OTHER,
    SHA256,
    Handler,
    Server,
    drop,
    fetch_with,
    files,
    in_chunks,
    lead_to,
    refuse,
    serve,
    without_length,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upernet.checkpoints import ZooEntry, http
from upernet.checkpoints.fetching import fetch
from upernet.checkpoints.zoo import checkpoints_folder
from upernet.errors import UpernetError

pytestmark = pytest.mark.usefixtures("home")


def test_a_file_is_downloaded_once_and_its_hash_is_kept(server: Server, home: Path) -> None:
    path = fetch(server.entry())
    assert path == home / "tiny.pth" and path.read_bytes() == CONTENT
    assert files(home) == ["tiny.pth", "tiny.pth.json"]
    record = json.loads((home / "tiny.pth.json").read_text())
    assert (record["url"], record["sha256"], record["bytes"]) == (server.entry().url, SHA256, len(CONTENT))
    assert fetch(server.entry()) == path
    assert len(server.requests) == 1


def test_progress_rises_to_the_size(server: Server) -> None:
    seen: list[tuple[int, int | None]] = []
    server.script = [drop(1000)]
    fetch(server.entry(), progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drops=st.lists(st.integers(0, len(CONTENT)), max_size=5))
def test_wherever_connections_break_no_byte_is_sent_twice(server: Server, home: Path, drops: list[int]) -> None:
    for leftover in home.glob("tiny*"):
        leftover.unlink()
    server.script, server.sent = [drop(limit) for limit in drops], 0
    assert fetch_with(server.entry(), retries=5).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_the_next_call_goes_on_where_the_last_one_failed(server: Server, home: Path) -> None:
    server.script = [drop(5000), drop(0)]
    with pytest.raises(
        UpernetError, match=f"ended after 5000 of {len(CONTENT)} bytes .the first 5000 bytes are kept.; try again later"
    ):
        fetch_with(server.entry(), retries=0)
    assert files(home) == ["tiny.pth.part", "tiny.pth.part.json"]
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=5000-"
    assert server.requests[-1]["If-Range"] == '"one"'
    assert files(home) == ["tiny.pth", "tiny.pth.json"]


def test_a_whole_part_is_not_asked_for_again(server: Server, home: Path) -> None:
    server.script = [drop(5000), refuse(503)]
    with pytest.raises(UpernetError):
        fetch_with(server.entry(), retries=0)
    (home / "tiny.pth.part").write_bytes(CONTENT)  # as if the process had ended just before the renaming
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_parts_of_two_files_are_never_glued(server: Server, heeds_if_range: bool) -> None:
    server.heeds_if_range = heeds_if_range

    def change(handler: Handler) -> None:
        server.content, server.headers = OTHER, {"ETag": '"two"'}
        serve(handler)

    server.script = [drop(5000), change]
    assert fetch(server.entry()).read_bytes() == OTHER


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: Server, home: Path) -> None:
    server.script = [drop(5000), refuse(503)]
    with pytest.raises(UpernetError):
        fetch_with(server.entry(), retries=0)
    (home / "tiny.pth.part").write_bytes(CONTENT + b"more")
    assert fetch(server.entry()).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({"Last-Modified": "Wed, 15 Mar 2023 10:00:00 GMT"}, "Wed, 15 Mar 2023 10:00:00 GMT"),
        ({"ETag": 'W/"weak"', "Last-Modified": "Wed, 15 Mar 2023 10:00:00 GMT"}, "Wed, 15 Mar 2023 10:00:00 GMT"),
        ({"ETag": 'W/"weak"'}, None),
        ({}, None),
    ],
)
def test_only_a_file_that_can_be_recognized_is_resumed(
    server: Server, headers: dict[str, str], condition: str | None
) -> None:
    server.headers = headers
    server.script = [drop(5000)]
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert server.requests[1].get("If-Range") == condition
    assert ("Range" in server.requests[1]) == (condition is not None)


def test_a_server_without_ranges_starts_anew(server: Server) -> None:
    server.ranges = False
    server.script = [drop(5000), drop(3000)]
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_file_that_always_breaks_off_is_given_up(server: Server, home: Path) -> None:
    server.ranges = False
    server.script = [drop(5000)] * 10
    with pytest.raises(UpernetError, match="connection ended after 5000 of"):
        fetch_with(server.entry(), retries=2)
    assert len(server.requests) == 4  # the first got further than nothing
    assert not (home / "tiny.pth").exists()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server: Server, status: int) -> None:
    server.script = [refuse(status), refuse(status)]
    assert fetch_with(server.entry(), retries=2).read_bytes() == CONTENT
    server.script = [refuse(status)] * 10
    with pytest.raises(UpernetError, match=rf"tiny2\.pth: the server answered {status} .*; try again later, or fetch"):
        fetch_with(ZooEntry(url=f"{server.base}/tiny2.pth", license="free"), retries=2)
    assert len(server.requests) == 6


@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_file_that_is_not_there_is_asked_for_once(server: Server, home: Path, status: int) -> None:
    server.script = [refuse(status)] * 10
    with pytest.raises(UpernetError, match=f"the server answered {status}.*put it at .*tiny.pth"):
        fetch(server.entry())
    assert len(server.requests) == 1 and files(home) == []


def test_a_web_page_is_not_taken_for_weights(server: Server, home: Path) -> None:
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(UpernetError, match="a web page came instead of weights"):
        fetch(server.entry())
    server.headers = {"ETag": '"page"'}
    server.content = b"\n<!DOCTYPE html><html>please log in</html>"
    with pytest.raises(UpernetError, match=r"a web page .* instead of weights; the download was deleted"):
        fetch(server.entry())
    server.content = b""
    with pytest.raises(UpernetError, match="an empty file instead of weights"):
        fetch(server.entry())
    assert files(home) == []


def test_a_file_of_another_size_than_published_is_refused(server: Server, home: Path) -> None:
    with pytest.raises(UpernetError, match=f"has {len(CONTENT)} bytes, not 7 as published"):
        fetch(server.entry(bytes=7))
    assert files(home) == [] and server.sent <= len(CONTENT)
    assert fetch(server.entry(bytes=len(CONTENT))).exists()


def test_a_file_with_another_hash_than_published_is_deleted(server: Server, home: Path) -> None:
    with pytest.raises(UpernetError, match=f"SHA-256 {SHA256}, not {'0' * 64}.; the download was deleted"):
        fetch(server.entry(sha256="0" * 64))
    assert files(home) == []
    assert fetch(server.entry(sha256=SHA256)).read_bytes() == CONTENT
    with pytest.raises(UpernetError, match=r"tiny\.pth: damaged or not the right file .*; delete it, then"):
        fetch(server.entry(sha256="0" * 64))


@pytest.mark.parametrize("size", [7, len(CONTENT) - 1])
def test_a_file_that_never_ends_is_cut_off_at_the_published_size(server: Server, home: Path, size: int) -> None:
    server.script = [without_length(CONTENT)]
    with pytest.raises(UpernetError, match=f"more than the {size} bytes that it should have"):
        fetch(server.entry(bytes=size))
    assert files(home) == []
    server.script = [without_length(CONTENT)]
    assert fetch(server.entry(bytes=len(CONTENT))).read_bytes() == CONTENT


@pytest.mark.parametrize("says_its_length", [True, False])
def test_no_file_is_without_limit(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, says_its_length: bool
) -> None:
    monkeypatch.setattr(http, "MAX_BYTES", len(CONTENT) - 1)
    server.script = [serve if says_its_length else without_length(CONTENT)]
    with pytest.raises(UpernetError, match=r"the file there has .* bytes.* any published weights"):
        fetch(server.entry())
    assert files(home) == []
    assert fetch(server.entry(bytes=len(CONTENT))).read_bytes() == CONTENT


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_mirror_of_pipes_is_refused_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "tiny.pth")
    monkeypatch.setenv("UPERNET_MIRROR", tmp_path.as_uri())
    with pytest.raises(UpernetError, match=r"tiny\.pth: it is not a file"):
        fetch(ZooEntry(name="tiny", url="https://example.org/tiny.pth", license="free"))


def test_a_body_without_length_that_breaks_off_is_not_taken_for_the_whole_file(server: Server) -> None:
    server.script = [in_chunks(CONTENT[:5000], whole=False), in_chunks(CONTENT, whole=True)]
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert server.script == []


def test_a_body_without_length_that_is_shorter_than_published_is_not_taken(server: Server) -> None:
    server.script = [without_length(CONTENT[:5000]), serve]
    assert fetch(server.entry(bytes=len(CONTENT))).read_bytes() == CONTENT
    assert server.script == []


def test_what_has_arrived_survives_a_mirror_that_cannot_be_reached(server: Server) -> None:
    entry = server.entry(mirrors=(f"{server.base}/mirror/tiny.pth",))
    server.script = [drop(5000), drop(0), refuse(404)]
    with pytest.raises(
        UpernetError, match=r"the first 5000 bytes are kept.*/mirror/tiny\.pth: the server answered 404"
    ):
        fetch_with(entry, retries=0)
    assert fetch(entry).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=5000-"


def test_the_next_address_is_tried_when_one_has_another_file(server: Server, home: Path) -> None:
    def wrong(handler: Handler) -> None:
        handler.answer(200, {"Content-Length": str(len(OTHER))}, OTHER)

    server.script = [wrong]
    entry = server.entry(mirrors=(f"{server.base}/mirror/tiny.pth",), sha256=SHA256)
    assert fetch(entry).read_bytes() == CONTENT
    assert files(home) == ["tiny.pth", "tiny.pth.json"]


def test_the_next_address_is_tried_when_one_fails(server: Server) -> None:
    entry = server.entry(mirrors=(f"{server.base}/mirror/tiny.pth",))
    server.script = [refuse(404)]
    assert fetch(entry).read_bytes() == CONTENT
    assert [request["path"] for request in server.requests] == ["/weights/tiny.pth", "/mirror/tiny.pth"]
    server.script = [refuse(404), refuse(410)]
    other = ZooEntry(name="other", url=f"{server.base}/o.pth", mirrors=(f"{server.base}/2/o.pth",), license="free")
    with pytest.raises(UpernetError, match=r"/o\.pth: the server answered 404.*/2/o\.pth: the server answered 410"):
        fetch(other)


def test_the_hash_of_the_first_download_holds_for_the_next(server: Server, home: Path) -> None:
    fetch(server.entry()).unlink()
    server.content = OTHER
    with pytest.raises(UpernetError, match=r"not the right file .* delete .*tiny\.pth\.json"):
        fetch(server.entry())
    (home / "tiny.pth.json").unlink()
    assert fetch(server.entry()).read_bytes() == OTHER


def test_a_file_that_was_touched_is_hashed_and_one_that_was_changed_is_refused(server: Server) -> None:
    path = fetch(server.entry())
    os.utime(path, (1, 1))
    assert fetch(server.entry()) == path
    os.utime(path, (2, 2))
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UpernetError, match=r"damaged .* `upernet download tiny` fetches it again"):
        fetch(server.entry())
    assert path.read_bytes() == CONTENT[:-1]
    assert len(server.requests) == 1


def test_verification_finds_what_size_and_time_do_not_show(server: Server) -> None:
    path = fetch(server.entry())
    time = path.stat().st_mtime_ns
    path.write_bytes(OTHER)
    os.utime(path, ns=(time, time))
    assert fetch(server.entry()) == path
    with pytest.raises(UpernetError, match="damaged"):
        fetch(server.entry(), verify=True)


def test_a_file_put_there_by_hand_is_taken(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    home.mkdir(parents=True)
    (home / "tiny.pth").write_bytes(CONTENT)
    assert fetch(server.entry(sha256=SHA256)).read_bytes() == CONTENT
    assert json.loads((home / "tiny.pth.json").read_text())["sha256"] == SHA256
    (home / "page.pth").write_bytes(b"<html>")
    with pytest.raises(UpernetError, match=r"page\.pth: a web page .* instead of weights; delete it"):
        fetch(ZooEntry(url=f"{server.base}/page.pth", license="free"))
    assert server.requests == []


def test_offline(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    url = re.escape(server.entry().url)
    with pytest.raises(UpernetError, match=f"tiny: not downloaded yet.*fetch {url} .* put it at .*tiny.pth"):
        fetch(server.entry())
    assert server.requests == []
    monkeypatch.setenv("UPERNET_OFFLINE", "0")
    path = fetch(server.entry())
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    assert fetch(server.entry()) == path
    for value in ("0", "false", ""):
        monkeypatch.setenv("UPERNET_OFFLINE", value)
        path.unlink()
        assert fetch(server.entry()) == path


def test_files_of_this_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a folder" / "tiny.pth"
    source.parent.mkdir()
    entry = ZooEntry(name="tiny", url=source.as_uri(), license="free")
    with pytest.raises(UpernetError, match=r"^file:.*tiny\.pth: .*; try again later"):
        fetch(entry)
    source.write_bytes(CONTENT)
    monkeypatch.setenv("UPERNET_OFFLINE", "1")
    path = fetch(entry)
    assert path != source and path.read_bytes() == CONTENT


def test_a_file_of_this_computer_with_an_odd_name(tmp_path: Path) -> None:
    source = tmp_path / "100%25 ü" / "tiny.pth"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    assert fetch(ZooEntry(name="tiny", url=source.as_uri(), license="free")).read_bytes() == CONTENT


def test_mirrors(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ZooEntry(name="tiny", url="https://weights.invalid/releases/tiny.pth", license="free")
    monkeypatch.setenv("UPERNET_MIRROR", "/mnt/weights")
    with pytest.raises(UpernetError, match="UPERNET_MIRROR=/mnt/weights: must begin with https://"):
        fetch(entry)
    monkeypatch.setenv("UPERNET_MIRROR", f"{server.base}/mirror/of/weights/")
    path = fetch(entry)
    assert server.requests[0]["path"] == "/mirror/of/weights/tiny.pth"
    path.unlink()
    (tmp_path / "tiny.pth").write_bytes(CONTENT)
    monkeypatch.setenv("UPERNET_MIRROR", tmp_path.as_uri())
    assert fetch(entry).read_bytes() == CONTENT


def test_redirections(server: Server) -> None:
    server.script = [lead_to(f"{server.base}/elsewhere?signature=1"), drop(5000), lead_to("/elsewhere?signature=2")]
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert [request["path"] for request in server.requests[1::2]] == [
        "/elsewhere?signature=1",
        "/elsewhere?signature=2",
    ]
    assert server.requests[-1]["Range"] == "bytes=5000-"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/tiny.pth", "data:,weights"])
def test_redirections_away_from_the_web_are_not_followed(server: Server, home: Path, target: str) -> None:
    server.script = [lead_to(target)] * 10
    with pytest.raises(UpernetError, match=r"unsupported protocol|[Ii]nvalid URL|missing an|absolute URLs"):
        fetch(server.entry())
    assert files(home) == []


def test_a_proxy_of_the_environment_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.base)
    fetch(ZooEntry(url="http://weights.invalid/tiny.pth", license="free"))
    assert server.requests[0]["path"] == "http://weights.invalid/tiny.pth"


def test_a_silent_server(server: Server) -> None:
    released = threading.Event()
    server.script = [lambda handler: released.wait(30) and None]
    try:
        with pytest.raises(UpernetError, match="the server stayed silent"):
            fetch_with(server.entry(), retries=0, timeout=0.05)
    finally:
        released.set()


def test_no_server(server: Server) -> None:
    with Server() as closed:
        entry = closed.entry()
    with pytest.raises(UpernetError, match=r"tiny\.pth: .*refused.*; try again later, or fetch it by hand"):
        fetch_with(entry, retries=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(server: Server, home: Path) -> None:
    server.script = [drop(0)]  # leaves what is known of the file
    with pytest.raises(UpernetError):
        fetch_with(server.entry(), retries=0)
    (home / "tiny.pth.part").unlink()
    (home / "tiny.pth.part").symlink_to("/dev/full")

    def goes_on(handler: Handler) -> None:
        headers = {"ETag": '"one"', "Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
        handler.answer(206, headers, CONTENT)

    server.script = [goes_on]
    with pytest.raises(UpernetError, match=r"tiny\.pth\.part: the disk is full; make room and call again"):
        fetch(server.entry())
    (home / "tiny.pth.part").unlink()
    assert files(home) == ["tiny.pth.part.json"]


def test_a_home_that_cannot_be_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UPERNET_HOME", str(tmp_path / "file"))
    with pytest.raises(UpernetError, match=r"tiny\.pth: cannot be kept there .* set UPERNET_HOME"):
        fetch(server.entry())


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="other systems have other folders")
def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UPERNET_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert checkpoints_folder() == tmp_path / "cache" / "upernet" / "checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoints_folder() == tmp_path / ".cache" / "upernet" / "checkpoints"


def test_an_unknown_name() -> None:
    with pytest.raises(UpernetError, match=r"internimage_z: not in the zoo; it has .*internimage_t"):
        fetch("internimage_z")


@pytest.mark.process
@pytest.mark.slow
def test_of_two_processes_one_downloads(server: Server, home: Path) -> None:
    both_run = threading.Event()

    def wait_for_both(handler: Handler) -> None:
        assert both_run.wait(120)
        serve(handler)

    server.script = [wait_for_both]
    code = (
        "import sys\n"
        "from upernet.checkpoints import ZooEntry\n"
        "from upernet.checkpoints.fetching import fetch\n"
        "print('ready', flush=True)\n"
        "print(fetch(ZooEntry(url=sys.argv[1], license='free')))\n"
    )
    command = [sys.executable, "-c", code, server.entry().url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    both_run.set()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == [f"{home / 'tiny.pth'}\n"] * 2
    assert len(server.requests) == 1
    assert (home / "tiny.pth").read_bytes() == CONTENT
