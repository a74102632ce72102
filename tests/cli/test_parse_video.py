"""Tests of `upernet parse` with videos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.clips import cut, read_clip, write_clip, write_sound
from helpers.color_checkpoint import beach_photo
from helpers.command_line import Result, Run
from helpers.interrupts import interruptible

from upernet.inference import Parser


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


def test_ctrl_c_leaves_what_is_done(clip: Path, parse: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original, count = Parser.parse_decoded, [0]

    def interrupted(*arguments: object, **options: object):
        count[0] += 1
        if count[0] == 4:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)  # pyright: ignore

    monkeypatch.setattr(Parser, "parse_decoded", interrupted)
    with interruptible():
        result = parse("clip.mkv", "--levels", "object")
    assert result.status == 130
    assert sentence(result).startswith("upernet: clip.mkv: stopped after ") and "parses/clip.partial" in result.stderr
    partial = tmp_path / "parses" / "clip.partial"
    assert json.loads((partial / "video.json").read_text())["complete"] is False
    assert (
        len(read_clip(partial / "object_overlay.mp4")[0])
        == len((partial / "frames.jsonl").read_text().splitlines())
        == 3
    )


def test_results_of_videos_are_no_photos(clip: Path, parse: Run, tmp_path: Path):
    parse("clip.mkv", "--levels", "object", "--labels", "png", "--out", "results")
    assert parse("results").status == 2


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM is a matter of Unix")
def test_a_terminated_process(clip: Path, checkpoint: Path, tmp_path: Path):
    write_clip(tmp_path / "long.mkv", [beach_photo()] * 400)
    command = [
        sys.executable,
        "-m",
        "upernet",
        "parse",
        "long.mkv",
        "--model",
        str(checkpoint),
        "--json",
        "--out",
        "out",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(5):
            assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        error = process.communicate()[1]
    assert process.returncode == 143 and "stopped after" in error and "Traceback" not in error
    assert (tmp_path / "out" / "long.partial" / "video.json").is_file()
