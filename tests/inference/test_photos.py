"""Tests of upernet.inference.photos, sources and summary; tests/cli/test_parse_command.py has more of `find_photos`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.painted_network import four_quarters, paint
from PIL import Image

from upernet.data.images import reads_heic
from upernet.errors import UpernetError
from upernet.inference import Parser
from upernet.inference.photos import check_what, make_output_folder, parse_photos
from upernet.inference.planning import Finished
from upernet.inference.sources import find_photos, left_out
from upernet.ops import recorded_decisions, use_kernel


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Create a photo, a broken file, and another photo of the first one's name."""
    paths = [tmp_path / "in" / name for name in ("a.png", "broken.png", "deep/a.png")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(four_quarters())).save(path)
    paths[1].write_bytes(b"")
    return paths


def test_a_broken_photo_does_not_stop_the_others(parser: Parser, photos: list[Path], tmp_path: Path) -> None:
    parsed = list(parse_photos(parser, photos, ["object"], tmp_path / "out"))
    assert [outcome.name for outcome in parsed] == [str(photo) for photo in photos]
    first, broken, second = (outcome.result for outcome in parsed)
    assert isinstance(broken, UpernetError) and "broken.png" in str(broken)
    assert isinstance(first, Finished) and isinstance(second, Finished)
    assert first.parse is not None and first.parse.object.share("person") == 0.25
    assert first.parse.levels == ("object",)
    assert [done.folder and done.folder.name for done in (first, second)] == ["a", "a-2"]


def test_nothing_is_saved_without_a_folder(parser: Parser, photos: list[Path], tmp_path: Path) -> None:
    (outcome,) = parse_photos(parser, photos[:1], ["object"], None)
    assert isinstance(outcome.result, Finished) and outcome.result.parse is not None and outcome.result.folder is None
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_photos_are_parsed_only_when_they_are_asked_for(parser: Parser, photos: list[Path]) -> None:
    parsed = parse_photos(parser, photos, ["object"], None)
    photos[0].unlink()
    assert isinstance(next(parsed).result, UpernetError)


def test_the_summary_has_a_row_per_photo(parser: Parser, photos: list[Path], tmp_path: Path) -> None:
    Image.fromarray(paint(np.full((8, 8), 1))).save(photos[2])
    list(parse_photos(parser, photos, ["scene", "object"], tmp_path / "out", ["json"]))
    with open(tmp_path / "out" / "summary.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == ["a.png", "broken.png", "a.png"]
    assert rows[0]["scene"] == "street" and float(rows[0]["scene_probability"]) > 0.9
    assert [row["object.person"] for row in rows] == ["0.25", "", "0"]
    assert [row["object.road"] for row in rows] == ["0.25", "", "1.0"]
    assert "broken.png: the file is empty" in rows[1]["error"] and rows[1]["folder"] == ""
    assert Path(rows[2]["folder"]).name == "a-2"


def test_one_photo_has_no_summary(parser: Parser, photos: list[Path], tmp_path: Path) -> None:
    list(parse_photos(parser, photos[:1], ["object"], tmp_path / "out", ["json"], several=False))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_one_coco_file_holds_all_photos(parser: Parser, photos: list[Path], tmp_path: Path) -> None:
    list(parse_photos(parser, photos, ["object"], tmp_path / "out", ["coco"]))
    assert {"coco.json", "summary.csv"} < {path.name for path in (tmp_path / "out").iterdir()}
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    dataset = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["id"] for image in dataset["images"]] == [1, 2]
    assert [annotation["image_id"] for annotation in dataset["annotations"]] == [1] * 4 + [2] * 4
    assert [annotation["id"] for annotation in dataset["annotations"]] == list(range(1, 9))
    with pytest.raises(UpernetError, match="coco needs regions, and scene has none"):
        next(parse_photos(parser, photos, ["scene"], tmp_path / "out", ["coco"]))


def test_files_about_all_photos_are_written_when_the_caller_stops(
    parser: Parser, photos: list[Path], tmp_path: Path
) -> None:
    parsed = parse_photos(parser, [photos[0], photos[2]] * 5, ["object"], tmp_path / "out")
    for _ in range(2):
        next(parsed)
    parsed.close()
    assert (tmp_path / "out" / "summary.csv").read_text().count("a.png") == 2
    assert not list((tmp_path / "out").glob(".upernet-*"))


@pytest.mark.parametrize(("what", "wanted"), [("sheet coco", {"sheet", "coco"}), ("none", set()), ("", set())])
def test_what_to_save(what: str, wanted: set[str]) -> None:
    assert check_what(what.split()) == wanted


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("overlays", r"'overlays' cannot be saved \(did you mean 'overlay'\?\); choose from sheet, overlay, .*none"),
        ("none sheet", "'none' saves nothing"),
    ],
)
def test_unknown_things_to_save(what: str, error: str) -> None:
    with pytest.raises(UpernetError, match=error):
        check_what(what.split())


def test_each_file_counts_once(photos: list[Path], tmp_path: Path) -> None:
    found = find_photos([tmp_path / "in", photos[0], tmp_path / "missing.jpg"])
    assert found.photos == photos
    assert [path for path, _ in found.problems] == [str(tmp_path / "missing.jpg")]
    assert left_out(found.unread) is None


def test_other_files_of_folders_are_counted(photos: list[Path], tmp_path: Path) -> None:
    names = ("clip.MOV", "deep/clip.mov", "notes.txt", "README", ".hidden", "b\x1b.x\x1b[2J")
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"")
    assert left_out(find_photos([tmp_path / "in"]).unread) == (
        r"left out 5 files that are not a photo (2 .mov, 1 without a suffix, 1 .x\x1b[2j, 1 .txt)."
    )
    for number in range(9):
        (tmp_path / "in" / "deep" / f"a.{number}").write_bytes(b"")
    assert str(left_out(find_photos([tmp_path / "in"]).unread)).endswith(" 7 of other kinds).")


@pytest.mark.skipif(reads_heic(), reason="pillow-heif is installed")
def test_heic_photos_name_what_reads_them(photos: list[Path], parser: Parser) -> None:
    photos[1].unlink()
    heic = photos[1].with_suffix(".HEIC")
    heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert left_out(find_photos([heic.parent]).unread) == (
        "left out 1 file that is not a photo (1 .heic); to read HEIC, run: pip install 'upernet[heic]'."
    )
    with pytest.raises(
        UpernetError, match=r"is a HEIC photo, which needs pillow-heif; run: pip install 'upernet\[heic"
    ):
        parser(heic)


@pytest.mark.skipif(not reads_heic(), reason="pillow-heif is not installed")
def test_heic_photos(photos: list[Path], parser: Parser) -> None:
    heic = photos[1].with_suffix(".HEIC")
    Image.fromarray(paint(four_quarters())).save(heic, "HEIF", quality=100)
    assert heic in find_photos([heic.parent]).photos
    assert parser(heic, ["object"]).object.share("person") == pytest.approx(0.25, abs=0.05)


def test_addresses_stay_as_they_are() -> None:
    address = "https://example.org//a%20b.jpg?x=1#y"
    found = find_photos([address, "HTTP://example.org/b.jpg", address])
    assert found.photos == [address, "HTTP://example.org/b.jpg"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    make_output_folder(tmp_path / "deep" / "out")
    assert (tmp_path / "deep" / "out").is_dir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UpernetError, match="cannot be written"):
        make_output_folder(tmp_path / "file")


@pytest.mark.parametrize("address", ["s3://bucket/parses", "GS://bucket", "https://example.org/a", "memory:///a"])
def test_results_are_not_saved_at_addresses(
    address: str, parser: Parser, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UpernetError, match="results are saved on the disk only; choose a folder, and copy it there"):
        make_output_folder(Path(address))
    with pytest.raises(UpernetError, match="^" + address.replace("///", "//")):
        parser(photos[0]).save(address)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    make_output_folder(tmp_path / "a:" / "b")


def test_label_maps_are_made_with_the_kernels_that_the_caller_asks_for(parser: Parser, photos: list[Path]) -> None:
    with recorded_decisions() as decisions, use_kernel(upsampled_labels="torch"):
        parses = list(parser.stream(photos[::2]))
    own = [decision for decision in decisions if decision.operator == "upsampled_labels"]
    assert len(own) >= len(parses) == 2 and {decision.kernel for decision in own} == {"torch"}
