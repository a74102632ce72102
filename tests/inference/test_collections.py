"""Tests of upernet.inference.photos, planning, manifest, sources and storage: runs over many photos that go on."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import fsspec
import numpy as np
import pytest
import torch
from helpers.full_disk import file_size_limit, needs_file_size_limit
from helpers.painted_network import PaintedNetwork, four_quarters, paint
from helpers.shards import write_shard
from helpers.web import FileServer, lead_to, running
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import Parser
from upernet.inference.manifest import MANIFEST_FILE, Manifest, Record
from upernet.inference.photos import parse_photos
from upernet.inference.planning import Finished
from upernet.inference.saved import find_saved, read_saved
from upernet.inference.sources import FoundPhotos, find_photos
from upernet.models import UPerNet


def png(objects: int = 0, size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(paint(np.full(size, objects))).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder with four photos, of which the third is broken."""
    for number in range(4):
        path = tmp_path / "in" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(number) if number != 2 else b"broken")
    return tmp_path / "in"


def run(parser: Parser, *paths: str | Path, again: bool = False, what: tuple[str, ...] = ("labels", "json")) -> str:
    """Parse photos into `out` beside the first path, and return a letter per photo: done now, earlier, or failed."""
    out = OUT[0]
    found = find_photos(paths)
    assert not found.problems, found.problems
    letters = []
    for outcome in parse_photos(parser, found.photos, ["object"], out, what, again=again):
        if isinstance(outcome.result, Finished):
            assert outcome.result.folder is not None and (outcome.result.folder / "parse.json").is_file()
            letters.append("e" if outcome.result.earlier else "d")
        else:
            letters.append("f")
    return "".join(letters)


OUT: list[Path] = []


@pytest.fixture(autouse=True)
def out(tmp_path: Path) -> Iterator[Path]:
    OUT[:] = [tmp_path / "out"]
    yield OUT[0]
    OUT.clear()


def results(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST_FILE, ".lock")
    }


def test_a_second_run_tries_only_what_failed(parser: Parser, network: PaintedNetwork, folder: Path, out: Path) -> None:
    assert run(parser, folder) == "ddfd"
    before, passes = results(out), len(network.sizes)
    assert run(parser, folder) == "eefe"
    assert results(out) == before and len(network.sizes) == passes
    (folder / "2.png").write_bytes(png(2))
    assert run(parser, folder) == "eede"
    assert (out / "summary.csv").read_text().count("\n") == 5
    assert run(parser, folder, again=True) == "dddd"


def test_what_has_changed_is_parsed_again(parser: Parser, folder: Path, out: Path) -> None:
    run(parser, folder)
    (folder / "0.png").write_bytes(png(3, (32, 64)))
    (out / "1" / "parse.json").unlink()
    assert run(parser, folder) == "ddfe"
    assert read_saved(out / "0").size == (64, 32)
    assert run(parser, folder, what=("json",)) == "ddfd"
    assert not (out / "0" / "object.png").exists()


def test_other_settings_and_weights_parse_everything_again(folder: Path) -> None:
    network = PaintedNetwork()
    parser = Parser(cast(UPerNet, network), {"name": "painted"})
    assert run(parser, folder) == "ddfd"
    assert run(Parser(cast(UPerNet, network), {"name": "painted"}), folder) == "eefe"
    assert run(Parser(cast(UPerNet, network), {"name": "painted"}, short_side=16), folder) == "ddfd"
    network.register_buffer("extra", torch.zeros(1))
    assert run(Parser(cast(UPerNet, network), {"name": "painted"}), folder) == "ddfd"


def test_folders_do_not_depend_on_what_was_parsed_before(parser: Parser, tmp_path: Path, out: Path) -> None:
    for name in ("x/a.png", "y/a.png", "y/A.png", "z/a-2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (out / "a-3").mkdir(parents=True)
    (out / "a-3" / "mine.txt").write_text("mine")
    run(parser, tmp_path / "y")
    run(parser, tmp_path / "x", tmp_path / "y", tmp_path / "z")
    records = [json.loads(line) for line in (out / MANIFEST_FILE).read_text().splitlines()]
    folders = {record["photo"]: record["folder"] for record in records}
    assert folders == {"../y/A.png": "A", "../y/a.png": "a-2", "../x/a.png": "a-4", "../z/a-2.png": "a-2-2"}
    for photo, place in folders.items():
        assert json.loads((out / place / "parse.json").read_text())["path"] == f"../{photo}"
    assert os.listdir(out / "a-3") == ["mine.txt"]


def test_a_torn_line_and_lines_of_others_are_passed_over(parser: Parser, folder: Path, out: Path) -> None:
    run(parser, folder)
    manifest = out / MANIFEST_FILE
    content = manifest.read_bytes()
    line = json.loads(content.splitlines()[0])
    bad = [
        b"[]",
        b"\xff",
        b"{}",
        json.dumps({**line, "folder": "../up"}).encode(),
        json.dumps({**line, "photo": 3}).encode(),
    ]
    manifest.write_bytes(b"\n".join(bad) + b"\n" + content[:-20])
    assert run(parser, folder) == "eefd"
    assert run(parser, folder) == "eefe"
    assert not (out.parent / "up").exists()


@given(
    st.text(), st.text(), st.none() | st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.floats(0, 1))
)
def test_records_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    photo: str,
    version: str,
    error: str | None,
    row: dict[str, str | int | float],
) -> None:
    out = tmp_path_factory.mktemp("out")
    with Manifest(out) as manifest:
        manifest.add(Record("other", "a", "", ""))
        manifest.add(Record(photo, "b", version, "s", error, None, row))
    with Manifest(out) as manifest:
        known = manifest.known()[photo]
        assert (known.folder, known.version, known.done) == ("b", version, error is None)
        assert list(manifest.rows([photo])) == [row]


def test_one_process_at_a_time(parser: Parser, folder: Path, out: Path) -> None:
    out.mkdir()
    with (
        Manifest(out),
        pytest.raises(UpernetError, match="another process is saving parses there; wait for it, or choose"),
    ):
        run(parser, folder)
    assert run(parser, folder) == "ddfd"


@needs_file_size_limit
def test_a_full_disk_stops_the_run(parser: Parser, folder: Path, out: Path) -> None:
    assert run(parser, folder / "0.png", folder / "1.png") == "dd"
    lines = (out / MANIFEST_FILE).read_bytes()
    sentence = (
        r"manifest\.jsonl: cannot be written \(.*\); make room or choose another folder, and run the command again"
    )
    with file_size_limit(len(lines) + 10), pytest.raises(UpernetError, match=sentence):
        run(parser, folder)
    assert (out / MANIFEST_FILE).read_bytes()[: len(lines)] == lines
    assert run(parser, folder) == "eefd"


def test_a_manifest_that_never_ends_is_refused(parser: Parser, folder: Path, out: Path) -> None:
    out.mkdir()
    (out / MANIFEST_FILE).symlink_to("/dev/zero")
    with pytest.raises(UpernetError, match="is a pipe or a device, not a file"):
        run(parser, folder)


def test_a_run_that_is_stopped_goes_on(parser: Parser, network: PaintedNetwork, folder: Path, out: Path) -> None:
    whole = parse_photos(parser, find_photos([folder]).photos, ["object"], out, ["json"])
    for _ in range(2):
        next(whole)
    whole.close()
    passes = len(network.sizes)
    assert run(parser, folder, what=("json",)) == "eefd"
    assert len(network.sizes) - passes <= 1
    assert not list(out.glob(".upernet-*"))


def test_lists(parser: Parser, folder: Path, out: Path, tmp_path: Path) -> None:
    listed = tmp_path / "photos.txt"
    listed.write_bytes(b"\xef\xbb\xbfin/0.png\r\n\r\n  in/1.png  \n" + os.fsencode(folder / "3.png") + b"\nin/[01].png")
    assert find_photos([listed]).photos == [folder / "0.png", folder / "1.png", folder / "3.png"]
    assert run(parser, listed) == "ddd"
    listed.write_text("in/0.png\nin/none.png\nother.txt\nfile:///etc/passwd\n")
    (tmp_path / "other.txt").write_text("in/1.png")
    found = find_photos([listed])
    assert found.photos == [folder / "0.png"]
    errors = [str(error) for _, error in found.problems]
    assert errors[0] == f"{listed}, line 2: {tmp_path}/in/none.png: no such file or folder; check the path."
    assert "is a list in a list" in errors[1] and "photos come from files and from addresses with" in errors[2]
    for content, problem in ((b"\n \n", "the list is empty"), (b"\0PNG", "is not a text file")):
        listed.write_bytes(content)
        assert problem in str(find_photos([listed]).problems[0][1])


def shard_of(path: Path) -> Path:
    return write_shard(path, [("deep/1.png", png(1)), ("2.png", b"broken"), ("deep/1.json", b"{}"), ("3.png", png(3))])


def test_shards(parser: Parser, network: PaintedNetwork, tmp_path: Path, out: Path) -> None:
    first, second = shard_of(tmp_path / "x" / "0.tar"), shard_of(tmp_path / "y" / "0.tar")
    found = find_photos([tmp_path / "*" / "*.tar"])
    assert found.photos == [first, second] and found.several and found.count() == 6
    assert run(parser, first, second) == "dfddfd"
    assert sorted(path.relative_to(out).as_posix() for path in find_saved(out)) == [
        "0-2/3", "0-2/deep/1", "0/3", "0/deep/1",
    ]  # fmt: skip
    saved = read_saved(out / "0-2" / "deep" / "1")
    assert saved.photo == f"{second}/deep/1.png" and (saved.maps["object"].labels == 1).all()
    passes = len(network.sizes)
    assert run(parser, second, first) == "efeefe" and len(network.sizes) == passes
    write_shard(second, [("3.png", png(2))])
    assert run(parser, first, second) == "efed"
    assert (read_saved(out / "0-2" / "3").maps["object"].labels == 2).all()


def test_a_damaged_shard_keeps_what_can_be_read(parser: Parser, tmp_path: Path, out: Path) -> None:
    shard = shard_of(tmp_path / "0.tar")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: whole.index(b"3.png") + 600])
    outcomes = list(parse_photos(parser, find_photos([shard]).photos, ["object"], out, ["json"]))
    assert isinstance(outcomes[0].result, Finished)
    assert [outcome.name for outcome in outcomes[1:]] == [f"{shard}/2.png", str(shard)]
    assert "is cut off or damaged" in str(outcomes[2].result)
    assert (out / "summary.csv").read_text().count("\n") == 4
    shard.write_bytes(whole)
    assert run(parser, shard, what=("json",)) == "dfd"


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """Yield a store in memory with photos, other files and results below /bucket."""
    system = fsspec.filesystem("memory")
    for name in ("a.png", "deep/b.PNG", "notes.md", ".c.png", "old/parse.json", "old/object.png"):
        system.pipe(f"/bucket/{name}", png(int("deep" in name)))
    yield system
    system.rm("/bucket", recursive=True)


def test_stores(parser: Parser, bucket: fsspec.AbstractFileSystem, out: Path) -> None:
    found = find_photos(["memory://bucket"])
    assert found.photos == ["memory:///bucket/a.png", "memory:///bucket/deep/b.PNG"] and found.unread == {".md": 1}
    assert find_photos(["memory://bucket/*.png"]).photos == ["memory:///bucket/a.png"]
    assert run(parser, "memory://bucket") == "dd"
    assert run(parser, "memory://bucket") == "ee"
    bucket.pipe("/bucket/a.png", png(3, (32, 64)))
    assert run(parser, "memory://bucket") == "de"
    assert read_saved(out / "a").photo == "memory:///bucket/a.png" and read_saved(out / "a").size == (64, 32)
    assert parser("memory://bucket/deep/b.PNG", ["object"]).object.share("road") == 1


def test_shards_and_lists_in_stores(
    parser: Parser, bucket: fsspec.AbstractFileSystem, tmp_path: Path, out: Path
) -> None:
    bucket.pipe("/bucket/0.tar", shard_of(tmp_path / "0.tar").read_bytes())
    bucket.pipe("/bucket/all.txt", b"a.png\n0.tar\ndeep\n/etc/hostname.png")
    found = find_photos(["memory://bucket/all.txt"])
    assert found.count() is None and found.several
    assert found.photos == [
        "memory://bucket/a.png", "memory://bucket/0.tar", "memory:///bucket/deep/b.PNG",
        "memory://bucket//etc/hostname.png",
    ]  # fmt: skip
    assert run(parser, "memory://bucket/all.txt") == "ddfddf"
    assert sorted(path.relative_to(out).as_posix() for path in find_saved(out)) == ["0/3", "0/deep/1", "a", "b"]
    assert run(parser, "memory://bucket/0.tar") == "efe"


def test_what_stores_refuse(bucket: fsspec.AbstractFileSystem, parser: Parser) -> None:
    for address, problem in {
        "memory://bucket/none": "there is no such file or folder, or no file in it; check the address",
        "memory://bucket/old": "no photos in this folder or below",
        "memory://bucket/no*.png": "there is no such file or folder",
        "simplecache::memory://bucket": "no such file or folder",
        "memory://a::file:///etc": "photos come from files and from addresses with",
        "github://a:b@c/": "photos come from files and from addresses with",
    }.items():
        ((_, error),) = find_photos([address]).problems
        assert problem in str(error)
    with pytest.raises(UpernetError, match=r"^memory://bucket/none\.png: no such file; check the address\.$"):
        parser("memory://bucket/none.png")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_a_store_whose_package_is_missing(scheme: str, package: str) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    ((_, error),) = find_photos([f"{scheme}://bucket/photos"]).problems
    assert str(error).endswith(f"{scheme}:// needs a package that is not installed; run: pip install {package}.")


def test_photos_lists_and_shards_on_the_web(parser: Parser, network: PaintedNetwork, tmp_path: Path, out: Path) -> None:
    files = {
        "/p/a.png": png(0),
        "/p/b": png(1),
        "/p/0.tar": shard_of(tmp_path / "0.tar").read_bytes(),
        "/p/all.txt": b"a.png\nb?x=1\n0.tar\nmissing.png",
    }
    with running(FileServer(files)) as server:
        everything = f"{server.base}/p/all.txt?token=1"
        assert run(parser, everything) == "dddfdf"
        names = sorted(path.relative_to(out).as_posix() for path in find_saved(out))
        assert names == ["0/3", "0/deep/1", "a", "b"]
        passes, asked = len(network.sizes), [request["path"] for request in server.requests]
        assert run(parser, everything) == "eeefef" and len(network.sizes) == passes
        again = [request["path"] for request in server.requests[len(asked) :]]
        assert "/p/a.png" not in again and "/p/missing.png" in again
        files["/p/a.png"] = png(2)
        assert run(parser, everything) == "deefef"


def test_a_shard_that_leads_elsewhere(parser: Parser, tmp_path: Path, out: Path) -> None:
    shard_of(tmp_path / "0.tar")
    with running(FileServer({"/0.tar": b""})) as server:
        server.RequestHandlerClass.do_GET = lambda handler: lead_to(f"file://{tmp_path}/0.tar")(handler)  # type: ignore[attr-defined]
        try:
            (outcome,) = parse_photos(parser, [f"{server.base}/0.tar"], ["object"], out, ["json"])
        finally:
            del server.RequestHandlerClass.do_GET  # type: ignore[attr-defined]
    assert isinstance(outcome.result, UpernetError) and not list(find_saved(out))


def test_batches_hold_photos_of_like_size(network: PaintedNetwork, parser: Parser, tmp_path: Path, out: Path) -> None:
    sizes = [(32, 32), (32, 64), (32, 32), (32, 32), (32, 64), (32, 32)]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.png").write_bytes(png(number % 4, size) if number != 3 else b"broken")
    photos = [tmp_path / f"{number}.png" for number in range(len(sizes))]
    by_one = {str(photo): parser(photo) for photo in photos if photo.name != "3.png"}
    network.sizes.clear()
    batches: list[int] = []
    network.register_forward_pre_hook(lambda _, arguments: batches.append(len(arguments[0])))
    parsed = list(parse_photos(parser, photos, list(parser.levels), out, ["json"], batch=3))
    assert [outcome.name for outcome in parsed] == [str(photo) for photo in photos]
    assert batches == [3, 3, 2, 2]  # both passes, over 0, 2 and 5, and over 1 and 4
    for outcome in parsed:
        if outcome.name in by_one:
            assert isinstance(outcome.result, Finished) and outcome.result.parse is not None
            assert outcome.result.parse.rankings == by_one[outcome.name].rankings
            for level, found in by_one[outcome.name].maps.items():
                np.testing.assert_array_equal(outcome.result.parse.maps[level].labels, found.labels)


def test_a_batch_that_does_not_fit_is_taken_apart(network: PaintedNetwork, parser: Parser) -> None:
    def refuse(_: object, arguments: tuple[np.ndarray, ...]) -> None:
        if len(arguments[0]) > 1:
            raise MemoryError

    network.register_forward_pre_hook(refuse)
    photos = [paint(four_quarters()), paint(four_quarters())]
    parses = list(parser.stream(photos, batch=2))
    assert [parse.object.share("person") for parse in parses] == [0.25, 0.25]


def test_one_shard_counts_as_several_photos(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "0.tar")
    assert FoundPhotos([shard], [], Counter()).several
    assert not find_photos([write_shard(tmp_path / "0.png", [])]).several


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="file names are Unicode there")
def test_names_that_are_no_text(parser: Parser, tmp_path: Path, out: Path) -> None:
    (tmp_path / "in").mkdir()
    photo = os.fsencode(tmp_path / "in") + b"/caf\xe9.png"
    with open(photo, "wb") as file:
        file.write(png())
    other = tmp_path / "in" / "other.png"
    other.write_bytes(png())
    assert run(parser, tmp_path / "in") == "dd"
    assert run(parser, tmp_path / "in") == "ee"
    assert len((out / "summary.csv").read_text("utf-8").splitlines()) == 3


def test_photos_with_the_names_of_our_files(parser: Parser, tmp_path: Path, out: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("summary.csv", "coco.json", "Manifest.jsonl"):
        (tmp_path / "in" / f"{name}.png").write_bytes(png())
    assert run(parser, tmp_path / "in", what=("json", "coco")) == "ddd"
    assert (out / "summary.csv").is_file() and (out / "coco.json").is_file() and (out / MANIFEST_FILE).is_file()
    assert {folder.name for folder in out.iterdir() if folder.is_dir()} == {
        "summary.csv-2",
        "coco.json-2",
        "Manifest.jsonl-2",
    }


def test_addresses_with_long_names(parser: Parser) -> None:
    first, second = ("memory://long/" + 300 * letter + ".png" for letter in "xä")
    for address in (first, second):
        fsspec.filesystem("memory").pipe(address, png())
    assert run(parser, first, second) == "dd"
    assert run(parser, first, second) == "ee"


@needs_file_size_limit
def test_a_failed_line_of_the_manifest_leaves_no_trace(tmp_path: Path) -> None:
    with Manifest(tmp_path) as manifest:
        manifest.add(Record("a", "a", "1", "s"))
        content = manifest.path.read_bytes()
        with file_size_limit(len(content) + 10), pytest.raises(UpernetError, match="cannot be written"):
            manifest.add(Record("b", "b", "1", "s"))
        assert manifest.path.read_bytes() == content
        manifest.add(Record("b", "b", "1", "s"))
        assert set(manifest.known()) == {"a", "b"}
