"""Tests of `upernet parse` with videos."""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path

import pytest
from helpers.clips import cut, read_clip, write_clip, write_sound
from helpers.color_checkpoint import beach_photo
from helpers.command_line import Result, Run
from helpers.full_disk import file_size_limit, needs_file_size_limit
from helpers.interrupts import interruptible


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_clip(tmp_path / "clip.mkv", [beach_photo()] * 4)


def sentence(result: Result) -> str:
    """Return the only line of stderr, which is one error."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("upernet: ") and line.endswith(".")
    return line


def test_a_video(clip: Path, parse: Run, tmp_path: Path):
    result = parse("clip.mkv", "--levels", "scene,object,part")
    assert result.status == 0 and result.stderr == ""
    assert result.stdout == "clip.mkv -> parses/clip\n  4 frames, 0.4 seconds of video.\n\n"
    assert sorted(path.name for path in (tmp_path / "parses" / "clip").iterdir()) == [
        "frames.jsonl",
        "object.mkv",
        "object_overlay.mp4",
        "part.mkv",
        "part_overlay.mp4",
        "video.json",
    ]


def test_json_prints_a_line_per_frame_and_saves_only_if_asked(clip: Path, parse: Run, tmp_path: Path):
    result = parse("clip.mkv", "--json", "--every", "2", "--levels", "object")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["time"] for line in lines] == pytest.approx([0, 0.2])
    assert lines[0]["object"]["person"] == pytest.approx(0.25, abs=0.001)
    assert not (tmp_path / "parses").exists()
    parse("clip.mkv", "--json", "lines.json", "--levels", "object", "--quiet")
    assert len((tmp_path / "lines.json").read_text().splitlines()) == 4


def test_every_how_many_frames_may_be_more_than_there_are(clip: Path, parse: Run, tmp_path: Path):
    result = parse("clip.mkv", "--every", "1000", "--levels", "object")
    assert result.status == 0
    assert result.stdout == "clip.mkv -> parses/clip\n  1 frame, 0.4 seconds of video.\n\n"
    about = json.loads((tmp_path / "parses" / "clip" / "video.json").read_text())
    assert about["complete"] is True and about["seconds"] == pytest.approx(0.4)


@needs_file_size_limit
def test_a_full_disk_under_the_lines(clip: Path, parse: Run, tmp_path: Path):
    with file_size_limit(100):
        result = parse("clip.mkv", "--levels", "object", "--json", "lines.json", "--quiet")
    assert result.status != 0 and "lines.json" in sentence(result)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]


def test_several_videos_and_a_broken_one(clip: Path, parse: Run, tmp_path: Path):
    write_clip(tmp_path / "long.mkv", [beach_photo()] * 20)
    broken = cut(tmp_path / "long.mkv", 0.6)
    result = parse(broken.name, "clip.mkv", "--levels", "object", "--json")
    assert result.status == 1
    assert "breaks off after" in sentence(result)
    paths = [json.loads(line)["path"] for line in result.stdout.splitlines()]
    assert paths[-4:] == ["clip.mkv"] * 4 and len(paths) > 5


def test_what_cannot_be_parsed_at_all(clip: Path, parse: Run, tmp_path: Path):
    write_sound(tmp_path / "sound.mp4")
    for path, message in (
        ("sound.mp4", "has no pictures"),
        ("missing.mp4", "no such file"),
        ("camera:987", "no such camera"),
    ):
        result = parse(path)
        assert result.status == 2 and message in sentence(result)
    assert not (tmp_path / "parses").exists() or not any((tmp_path / "parses").iterdir())


def test_options_that_do_not_fit(clip: Path, parse: Run, tmp_path: Path):
    (tmp_path / "photo.png").write_bytes(b"")
    for arguments, message in (
        (("photo.png", "--every", "2"), "--every is for videos"),
        (("photo.png", "--smooth", "0.5"), "--smooth is for videos"),
        (("photo.png", "clip.mkv"), "separate commands"),
        (("clip.mkv", "--save", "sheet"), "sheet cannot be saved of a video"),
        (("clip.mkv", "--levels", "nothing"), "no level 'nothing'"),
        (("clip.mkv", "--seconds", "-1"), "seconds -1"),
    ):
        result = parse(*arguments)
        assert result.status == 2 and message in sentence(result)


def test_without_pyav(clip: Path, parse: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)  # what import sees where a package is missing
    result = parse("clip.mkv")
    assert result.status == 2 and sentence(result).endswith("run: pip install 'upernet[video]'.")


class Reader(io.StringIO):
    """Whoever reads the lines that a command prints, and sends it a signal at the third one."""

    def __init__(self, number: signal.Signals):
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.endswith("\n") and self.getvalue().count("\n") == 3:
            signal.raise_signal(self.number)
        return written


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_is_done(
    clip: Path, parse: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
):
    write_clip(tmp_path / "long.mkv", [beach_photo()] * 40)
    reader = Reader(number)
    with interruptible(), monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", reader)
        result = parse("long.mkv", "--levels", "object", "--json", "--out", "parses")
    assert result.status == status and reader.getvalue().count("\n") == 3
    assert sentence(result) == "upernet: long.mkv: stopped after 3 frames -> parses/long.partial."
    partial = tmp_path / "parses" / "long.partial"
    about = json.loads((partial / "video.json").read_text())
    assert about["complete"] is False and 3 <= about["frames"] < 40
    assert len((partial / "frames.jsonl").read_text().splitlines()) == about["frames"]
    for name in ("object.mkv", "object_overlay.mp4"):
        assert len(read_clip(partial / name)[0]) == about["frames"]


def test_results_of_videos_are_no_photos(clip: Path, parse: Run, tmp_path: Path):
    parse("clip.mkv", "--levels", "object", "--labels", "png", "--out", "results")
    assert parse("results").status == 2
