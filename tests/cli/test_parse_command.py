"""Tests of `upernet parse`: files, folders and patterns; one broken file does not stop the others."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.color_checkpoint import beach_photo
from helpers.command_line import Result, Run
from helpers.deadly import Deadly
from helpers.full_disk import file_size_limit, needs_file_size_limit
from helpers.interrupts import interruptible
from helpers.web import running
from PIL import Image

from upernet.ops import bfloat16_unavailable, int8_unavailable


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a working directory with photos in `in/`, one of them two folders below, beside other files."""
    monkeypatch.chdir(tmp_path)
    photo = Image.fromarray(beach_photo())
    for name in ("b.png", "a.JPG", "deep/er/a.webp"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, subsampling=0)  # a JPEG file with the exact borders of the colors
    (tmp_path / "in" / "notes.md").write_text("no photo")
    (tmp_path / "in" / ".hidden.png").write_text("no photo")
    return tmp_path


RESULTS = [".lock", "a", "a-2", "b", "manifest.jsonl", "summary.csv"]


def sentences(result: Result) -> list[str]:
    """Return the lines of stderr, each of which is one error."""
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert all(line.startswith("upernet: ") and line.endswith(".") for line in lines)
    return lines


@pytest.mark.slow
def test_a_folder_with_all_below_it(photos: Path, parse: Run) -> None:
    result = parse("in")
    assert result.status == 0
    assert sentences(result) == ["upernet: left out 1 file that is not a photo (1 .md)."]
    assert sorted(path.name for path in (photos / "parses").iterdir()) == RESULTS
    assert (photos / "parses" / "a" / "object.png").is_file()
    assert "in/a.JPG -> parses/a\n  A beach (over 99 %).\n  Mostly sky, trees and a person." in result.stdout


@pytest.mark.slow
def test_results_are_not_parsed_again(photos: Path, parse: Run) -> None:
    parse(".", "--out", "in/results")
    before = sorted((photos / "in" / "results").rglob("*"))
    assert parse(".", "--out", "in/results").status == 0
    assert sorted((photos / "in" / "results").rglob("*")) == before


@pytest.mark.slow
def test_files_and_patterns_each_once(photos: Path, parse: Run) -> None:
    result = parse("in/b.png", "in/*.[pJ]*", "in/**/*.webp", "--json")
    assert result.status == 0
    paths = [content["path"] for content in json.loads(result.stdout)["parses"]]
    assert [Path(path).as_posix() for path in paths] == ["in/b.png", "in/a.JPG", "in/deep/er/a.webp"]


@pytest.mark.slow
def test_json_is_one_object_and_saves_only_if_asked(photos: Path, parse: Run) -> None:
    content = json.loads(parse("in/b.png", "--json").stdout)
    assert content["failures"] == []
    assert content["parses"][0]["object"]["shares"]["person"] == pytest.approx(0.25, abs=0.001)
    assert content["parses"][0]["folder"] is None
    assert not (photos / "parses").exists()
    content = json.loads(parse("in/b.png", "--json", "--out", "results").stdout)
    assert (photos / content["parses"][0]["folder"] / "sheet.jpg").is_file()


def test_some_levels(photos: Path, parse: Run) -> None:
    assert parse("in/b.png", "--levels", "object, part").status == 0
    files = {path.name for path in (photos / "parses" / "b").iterdir()}
    assert "part.png" in files and "material.png" not in files


@pytest.mark.slow
def test_short_side(photos: Path, parse: Run) -> None:
    for side in (0, 32):
        assert parse("in/b.png", "--short-side", side, "--out", f"at{side}").status == 0
    files = (photos / f"at{side}" / "b" / "texture_confidence.png" for side in (0, 32))
    native, reduced = (np.asarray(Image.open(file)) for file in files)
    assert native.shape == reduced.shape == (64, 96)
    assert (native != reduced).any()


@pytest.mark.slow
def test_threads(photos: Path, parse: Run) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (3, 1):
            assert parse("in/b.png", "--threads", threads, "--out", f"by{threads}").status == 0
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in ("object.png", "object_confidence.png"):
        assert (photos / "by1" / "b" / name).read_bytes() == (photos / "by3" / "b" / name).read_bytes()
    refused = parse("in/b.png", "--threads", 0)
    assert refused.status == 2 and "--threads" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_broken_file_among_good_ones(photos: Path, parse: Run) -> None:
    good = (photos / "in" / "b.png").read_bytes()
    (photos / "in" / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "in" / "empty.jpg").write_bytes(b"")
    result = parse("in", "missing.jpg", "in/notes.md", "--out", "out")
    assert result.status == 1
    complaints = sentences(result)
    assert len(complaints) == 5
    for name in ("missing.jpg", "in/cut.png", "in/empty.jpg", "in/notes.md"):
        assert any(f"upernet: {name}: " in complaint for complaint in complaints)
    assert sorted(path.name for path in (photos / "out").iterdir()) == RESULTS
    failures = json.loads(parse("in", "missing.jpg", "--json").stdout)["failures"]
    assert [failure["path"] for failure in failures] == ["missing.jpg", "in/cut.png", "in/empty.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["missing.jpg"], "missing.jpg: no such file"),
        (["in/*.tif"], "in/*.tif: the pattern matches no file"),
        (["empty"], "empty: no photos in this folder"),
        (["in/notes.md"], "in/notes.md: not an image"),
        (["in", "--levels", "object,color"], "this model has no level 'color'; it has scene, object, part, material"),
        (["in", "--model", "nonsense"], "unknown model 'nonsense'"),
        (["in", "--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["in", "--out", "in/notes.md"], "in/notes.md: cannot be written"),
        (["in", "--out", "in/notes.md/below"], "in/notes.md/below: cannot be written"),
    ],
)
def test_nothing_can_be_done(photos: Path, parse: Run, arguments: list[str], complaint: str) -> None:
    (photos / "empty").mkdir()
    result = parse(*arguments)
    assert result.status == 2
    assert len(sentences(result)) == 1
    assert complaint in result.stderr
    assert result.stdout == ""
    assert (photos / "in" / "notes.md").read_text() == "no photo"


@pytest.mark.slow
@needs_file_size_limit
def test_a_full_disk_is_reported_and_earlier_results_stay(photos: Path, parse: Run) -> None:
    parse("in/b.png")
    before = {path: path.read_bytes() for path in (photos / "parses").rglob("*.*")}
    with file_size_limit(len(before[photos / "parses" / "b" / "sheet.jpg"]) // 2):  # the largest file, and the last one
        result = parse("in/b.png")
    assert result.status == 2
    assert "sheet.jpg: writing failed (File too large); nothing was changed." in sentences(result)[0]
    assert {path: path.read_bytes() for path in (photos / "parses").rglob("*.*")} == before


@pytest.mark.skipif(bool(bfloat16_unavailable()), reason=f"bfloat16: {bfloat16_unavailable()}")
def test_bfloat16(photos: Path, parse: Run) -> None:
    assert parse("in/b.png", "--out", "exact").status == 0
    assert parse("in/b.png", "--out", "out", "--precision", "bf16").status == 0
    labels = [np.asarray(Image.open(photos / folder / "b" / "object.png")) for folder in ("exact", "out")]
    assert (labels[0] == labels[1]).mean() > 0.95


@pytest.mark.skipif(bool(int8_unavailable()), reason=f"int8: {int8_unavailable()}")
def test_int8(photos: Path, parse: Run) -> None:
    assert parse("in/b.png", "--out", "exact").status == 0
    assert parse("in/b.png", "--out", "out", "--precision", "int8", "--calibration", "in").status == 0
    labels = [np.asarray(Image.open(photos / folder / "b" / "object.png")) for folder in ("exact", "out")]
    assert (labels[0] == labels[1]).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--precision", "int8"), "int8 needs photos to find the ranges of numbers; give a folder with --calibration."),
        (("--calibration", "in"), "fp32 needs no photos; leave --calibration out, or choose --precision int8."),
        (("--precision", "int8", "--calibration", "empty"), "empty: no photos"),
        (("--precision", "int8", "--calibration", "gone"), "gone: no such"),
    ],
)
def test_int8_and_its_photos_go_together(photos: Path, parse: Run, options: tuple[str, ...], sentence: str) -> None:
    (photos / "empty").mkdir()
    done = parse("in/b.png", *options)
    assert done.status == 2 and sentence in done.stderr and not (photos / "parses").exists()


def test_an_unknown_precision(photos: Path, parse: Run) -> None:
    done = parse("in/b.png", "--precision", "int1")
    assert done.status == 2 and "int1" in done.stderr and not (photos / "parses").exists()


@pytest.mark.slow
def test_what_to_save(photos: Path, parse: Run) -> None:
    assert parse("in/b.png", "--save", "sheet, coco").status == 0
    assert {path.name for path in (photos / "parses").rglob("*.*")} == {"coco.json", "sheet.jpg", "parse.json"}
    nothing = parse("in/b.png", "--save", "none", "--out", "out")
    assert nothing.status == 0 and nothing.stdout.startswith("in/b.png\n  A beach (")
    assert not (photos / "out").exists()
    assert parse("in/b.png", "--save", "overlay", "--alpha", "0.5", "--out", "plain").status == 0
    with Image.open(photos / "in" / "b.png") as photo, Image.open(photos / "plain/b/object_overlay.png") as overlay:
        assert overlay.size == photo.size
    assert parse("in/b.png", "--alpha", "1.5").status == 2
    refused = parse("in/b.png", "--save", "overlays")
    assert refused.status == 2 and "did you mean 'overlay'?" in sentences(refused)[0]


@pytest.mark.slow
def test_quiet(photos: Path, parse: Run) -> None:
    assert parse("in", "--quiet") == (0, "", "")
    (photos / "in" / "empty.jpg").write_bytes(b"")
    result = parse("in", "--quiet")
    assert result.stdout == "" and len(sentences(result)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("columns", [30, 80])
def test_lines_fit_the_terminal_and_keep_their_indent(
    photos: Path, parse: Run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    header, *lines = parse("in/b.png").stdout.splitlines()
    assert header == "in/b.png -> parses/b"
    assert lines.pop() == "" and all(line.startswith("  ") and len(line) <= columns for line in lines)
    assert not any(line.strip().startswith("%") for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such names here")
def test_names_do_not_reach_the_terminal_raw(photos: Path, parse: Run) -> None:
    names = ["esc\x1b[31mred.png", "two\nlines.png"]
    for name in names:
        (photos / "in" / "b.png").replace(photos / "in" / name)
        shown = name.encode("unicode_escape").decode()
        result = parse(f"in/{name}")
        assert result.stdout.startswith(f"in/{shown} -> parses/{Path(shown).stem}\n") and "\x1b" not in result.stdout
        (photos / "in" / name).replace(photos / "in" / "b.png")
        (photos / "in" / name).write_bytes(b"")
        (complaint,) = sentences(parse(f"in/{name}"))
        assert complaint.startswith(f"upernet: in/{shown}: the file is empty")
        assert sentences(parse("in/b.png", "--model", name))[0].count(shown) >= 1
    parse("in")
    assert r"esc\x1b[31mred.png" in (photos / "parses" / "summary.csv").read_text()


def test_json_to_a_file(photos: Path, parse: Run) -> None:
    result = parse("in/b.png", "missing.jpg", "--json", "all.json")
    content = json.loads((photos / "all.json").read_text())
    assert result.status == 1 and "A beach (" in result.stdout
    assert len(content["parses"]) == 1 and content["failures"][0]["path"] == "missing.jpg"
    assert not (photos / "parses").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM here")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_keeps_what_is_done_and_leaves_nothing_else(
    photos: Path, parse: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """The signal arrives while the description of the first photo is printed."""

    class Stopping(io.StringIO):
        def write(self, text: str) -> int:
            if "->" in text:
                signal.raise_signal(number)
            return super().write(text)

    before = signal.getsignal(signal.SIGTERM)
    with interruptible(), monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stopping())
        result = parse("in")
    assert result.status == status
    assert result.stderr.splitlines()[-1] == "upernet: stopped after 1 of 3 photos; their results are in parses."
    assert signal.getsignal(signal.SIGTERM) == before
    assert not list((photos / "parses").glob(".upernet-*"))
    assert all((path / "parse.json").is_file() for path in (photos / "parses").iterdir() if path.is_dir())
    assert parse("in").status == 0
    assert sorted(path.name for path in (photos / "parses").iterdir()) == RESULTS


@pytest.mark.slow
def test_many_photos_are_for_programs(photos: Path, parse: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "in" / "empty.png").write_bytes(b"")
    (photos / "all.txt").write_text("in\nmissing.png\n")
    result = parse("all.txt")
    assert result.status == 1
    complaints = sentences(result)
    assert len(complaints) == 3 and complaints[0].startswith("upernet: left out 1 file")
    assert complaints[1].startswith("upernet: all.txt, line 2: missing.png: no such file")
    assert complaints[2].startswith("upernet: in/empty.png: the file is empty")
    assert re.fullmatch(r"3 parsed \(\d+\.\d photos/s\), 2 failed -> parses\n", result.stdout)
    assert {path.name for path in (photos / "parses" / "b").iterdir()} == {
        *(f"{level}.png" for level in ("object", "part", "material", "texture")), "parse.json",
    }  # fmt: skip
    again = parse("all.txt")
    assert re.fullmatch(r"0 parsed \(0\.0 photos/s\), 3 done already, 2 failed -> parses\n", again.stdout)
    assert parse("all.txt", "--force").stdout.startswith("3 parsed (")
    content = json.loads(parse("all.txt", "--json", "--out", "parses").stdout)
    assert [Path(found["path"]).as_posix() for found in content["parses"]] == [
        "in/a.JPG",
        "in/b.png",
        "in/deep/er/a.webp",
    ]
    assert content["parses"][1]["folder"] == str(Path("parses", "b")) and len(content["failures"]) == 2
    assert parse("all.txt", "--quiet").stdout == ""


@pytest.mark.slow
def test_a_second_run_says_what_is_done(photos: Path, parse: Run) -> None:
    parse("in")
    assert parse("in").stdout.splitlines()[1] == "in/b.png -> parses/b (done already)"
    assert parse("in/b.png").stdout.startswith("in/b.png -> parses/b\n  A beach (")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="finding the process to kill needs /proc")
def test_what_was_finished_before_a_kill_stays(photos: Path, parse: Run, checkpoint: Path) -> None:
    photo = (photos / "in" / "b.png").read_bytes()
    for number in range(20):
        (photos / "in" / f"c{number:02}.png").write_bytes(photo)
    with running(Deadly(photo, deaths=1)) as server:
        names = [f"in/c{number:02}.png" for number in range(20)]
        (photos / "all.txt").write_text("\n".join([*names, f"{server.base}/deadly.png", "in/b.png"]))
        command = [sys.executable, "-m", "upernet", "parse", "all.txt", "--model", str(checkpoint), "--save", "json"]
        killed = subprocess.run(command, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        done = len((photos / "parses" / "manifest.jsonl").read_bytes().splitlines())
        assert done > 0
        result = parse("all.txt", "--save", "json")
    assert result.status == 0
    earlier = re.search(r"(\d+) parsed .*, (\d+) done already", result.stdout)
    assert earlier is not None and int(earlier[2]) in (done - 1, done) and int(earlier[1]) + int(earlier[2]) == 22
    assert not list((photos / "parses").glob(".upernet-*"))
    assert len(list((photos / "parses").glob("*/parse.json"))) == 22


def test_options_of_a_cluster_need_it(photos: Path, parse: Run) -> None:
    refused = parse("in", "--ray-address", "auto")
    assert refused.status == 2 and sentences(refused)[0].startswith("upernet: --ray-address needs --engine ray;")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_missing(photos: Path, parse: Run) -> None:
    refused = parse("in", "--engine", "ray")
    assert refused.status == 2
    assert sentences(refused)[-1] == "upernet: --engine ray needs Ray; run: pip install 'upernet[cluster]'."


def test_only_models_with_published_scales_have_them(photos: Path, parse: Run) -> None:
    result = parse("in/b.png", "--scales", "published")
    assert result.status == 2 and not (photos / "parses").exists()
    assert sentences(result) == ["upernet: colors has no published scales; leave scales out."]
    assert parse("in/b.png", "--scales", "300,400").status == 2
