"""Tests of upernet.inference.photos; tests/cli/test_parse_command.py has more of `find_photos`."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.painted_network import four_quarters, paint
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import Parser
from upernet.inference.photos import find_photos, make_output_folder, parse_photos


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
    assert [photo.path for photo in parsed] == photos
    first, broken, second = (photo.result for photo in parsed)
    assert isinstance(broken, UpernetError) and "broken.png" in str(broken)
    assert isinstance(first, dict) and isinstance(second, dict)
    assert first["object"]["shares"]["person"] == 0.25 and "material" not in first
    assert [Path(result["folder"]).name for result in (first, second)] == ["a", "a-2"]


def test_nothing_is_saved_without_a_folder(parser: Parser, photos: list[Path], tmp_path: Path) -> None:
    (photo,) = parse_photos(parser, photos[:1], iter(["object"]))
    assert isinstance(photo.result, dict) and photo.result["folder"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_photos_are_parsed_only_when_they_are_asked_for(parser: Parser, photos: list[Path]) -> None:
    parsed = parse_photos(parser, photos)
    photos[0].unlink()
    assert isinstance(next(parsed).result, UpernetError)


def test_each_file_counts_once(photos: list[Path], tmp_path: Path) -> None:
    found, problems = find_photos([tmp_path / "in", photos[0], tmp_path / "missing.jpg"])
    assert found == photos
    assert [path for path, _ in problems] == [str(tmp_path / "missing.jpg")]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    make_output_folder(tmp_path / "deep" / "out")
    assert (tmp_path / "deep" / "out").is_dir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UpernetError, match="cannot be written"):
        make_output_folder(tmp_path / "file")
