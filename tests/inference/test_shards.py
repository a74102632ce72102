"""Tests of upernet.inference.shards: WebDataset's layout, and archives that mean harm."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from helpers.shards import write_shard
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.errors import UpernetError
from upernet.inference import web
from upernet.inference.shards import Member, count_photos, is_shard, read_shard, split_name


def contents(members: list[Member]) -> dict[str, bytes]:
    return {member.key: member.content.getvalue() for member in members if isinstance(member.content, io.BytesIO)}


def problems(members: list[Member]) -> list[str]:
    return [str(member.content) for member in members if isinstance(member.content, UpernetError)]


def test_photos_in_order_with_the_keys_of_webdataset(tmp_path: Path) -> None:
    shard = write_shard(
        tmp_path / "0.tar",
        [("a/2.JPG", b"two"), ("a/2.json", b"{}"), ("a/2.seg.png", b"mask"), ("./1.png", b"one"), ("._1.png", b"mac")],
    )
    left_out: Counter[str] = Counter()
    members = list(read_shard(str(shard), left_out=left_out))
    assert [member.name for member in members] == ["a/2.JPG", "./1.png"]
    assert contents(members) == {"a/2": b"two", "1": b"one"}
    assert members[0].content.name == f"{shard}/a/2.JPG"
    assert left_out == {".json": 1, ".seg.png": 1}
    assert count_photos(str(shard)) == 2


def test_only_wanted_photos_are_read(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", [("1.png", b"one"), ("2.png", b"two"), ("3.png", b"three")])
    members = list(read_shard(str(shard), lambda key: key != "2"))
    assert [member.key for member in members] == ["1", "2", "3"]
    assert contents(members) == {"1": b"one", "3": b"three"}


@pytest.mark.parametrize(
    "name",
    [
        "../up.png",
        "a/../../up.png",
        "/etc/abs.png",
        "a//b.png",
        "C:/x.png",
        "a\\b.png",
        "a/./b.png",
        "x" * 300 + ".png",
    ],
)
def test_names_that_lead_out_of_the_shard_are_refused(tmp_path: Path, name: str) -> None:
    shard = write_shard(tmp_path / "0.tar", [(name, b"bad"), ("good.png", b"good")])
    members = list(read_shard(str(shard)))
    assert contents(members) == {"good": b"good"}
    assert len(problems(members)) == 1 and "leads out of the shard or is too long" in problems(members)[0]


@settings(max_examples=50, deadline=None)
@given(st.text("ab./\\:\0", max_size=8))
def test_keys_that_are_accepted_stay_inside_a_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("shard")
    shard = write_shard(folder / "0.tar", [(f"{name}x.png".replace("\0", ""), b"photo")])
    for key in contents(list(read_shard(str(shard)))):
        place = (folder / "out" / key).resolve()
        assert place.is_relative_to((folder / "out").resolve()) and place != (folder / "out").resolve()


def test_two_photos_of_one_key(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", [("1.png", b"first"), ("1.jpg", b"second")])
    members = list(read_shard(str(shard)))
    assert contents(members) == {"1": b"first"}
    assert "an earlier photo of the shard has the same key '1'; rename one of them" in problems(members)[0]


def test_links_and_devices_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}.png")
            entry.type, entry.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(entry)
    assert list(read_shard(str(tmp_path / "0.tar"))) == []


def test_large_photos_and_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LARGEST", 1000)
    shard = write_shard(tmp_path / "0.tar", [("big.png", bytes(1001)), ("small.png", b"small")])
    members = list(read_shard(str(shard)))
    assert contents(members) == {"small": b"small"} and "big.png: has more than 0 MiB" in problems(members)[0]
    shard = write_shard(tmp_path / "1.tar", [("x" * (2 << 20) + ".png", b"x")], tarfile.GNU_FORMAT)
    assert "a name in it has 2,097,157 bytes; pack it again" in problems(list(read_shard(str(shard))))[0]


@pytest.mark.parametrize("where", ["header", "extended header", "size of the extended header"])
def test_a_size_below_zero_ends_the_shard(tmp_path: Path, where: str) -> None:
    """Python would read the same member again and again, or all of the file at once."""
    entry = tarfile.TarInfo("1.png")
    entry.size = 3
    if where == "extended header":
        entry.pax_headers = {"size": str(-3 * tarfile.BLOCKSIZE)}
    content = bytearray(entry.tobuf(tarfile.PAX_FORMAT) + b"one".ljust(tarfile.BLOCKSIZE, b"\0") + bytes(1024))
    if where != "extended header":
        header = bytearray(content[: tarfile.BLOCKSIZE])
        header[124:136] = (-3 * tarfile.BLOCKSIZE % 2**96).to_bytes(12, "big")  # GNU's form of numbers
        header[156:157] = b"x" if where == "size of the extended header" else b"0"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content[: tarfile.BLOCKSIZE] = header
    shard = tmp_path / "0.tar"
    shard.write_bytes(content)
    members = list(islice(read_shard(str(shard)), 9))
    assert not contents(members) and "get it again" in problems(members)[-1] and len(members) == 1
    assert count_photos(str(shard)) == 0


def whole_shard(tmp_path: Path) -> bytes:
    return write_shard(tmp_path / "whole.tar", [(f"{i}.png", bytes([i]) * 700) for i in range(4)]).read_bytes()


@pytest.mark.parametrize("size", [0, 100, 512 + 300, 3 * 1536 + 511])
def test_a_shard_that_is_cut_off(tmp_path: Path, size: int) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(whole_shard(tmp_path)[:size])
    members = list(read_shard(str(shard)))
    assert len(contents(members)) == size // 1536
    (problem,) = problems(members)
    assert problem.startswith(f"{shard}: ") and problem.endswith("; get it again.")


def test_a_shard_without_its_end_mark(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(whole_shard(tmp_path)[: 2 * 1536])
    members = list(read_shard(str(shard)))
    assert len(contents(members)) == 2 and problems(members) == [f"{shard}: ends without its end mark; get it again."]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4 * 1536), st.integers(1, 255))
def test_a_damaged_shard_raises_nothing_and_is_never_shorter_in_silence(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    content = bytearray(whole_shard(folder))
    content[position] ^= change
    (folder / "0.tar").write_bytes(content)
    members = list(read_shard(str(folder / "0.tar")))
    assert len(contents(members)) == 4 or problems(members)


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    (problem,) = problems(list(read_shard(str(tmp_path / "0.tar"))))
    assert (
        problem
        == f"{tmp_path / '0.tar'}: cannot be read (No such file or directory); check the path and its permissions."
    )
    assert count_photos(str(tmp_path / "0.tar")) == 0


@pytest.mark.parametrize(
    ("name", "key", "suffix"),
    [("a/b.c/d.jpg", "a/b.c/d", ".jpg"), ("d.seg.PNG", "d", ".seg.png"), ("d", "d", ""), ("./d.x", "d", ".x")],
)
def test_names(name: str, key: str, suffix: str) -> None:
    assert split_name(name) == (key, suffix)


def test_what_is_a_shard() -> None:
    assert is_shard("a/B.TAR") and is_shard("https://x.org/a.tar?token=1.jpg") and is_shard("s3://b/a.tar")
    assert not is_shard("a.tar.gz") and not is_shard("https://x.org/a.jpg?b=.tar")
