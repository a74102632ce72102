"""Tests of `upernet evaluate RUN` and `upernet compare`: training runs and evaluations, from the command line."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.color_network import RED, halves, save
from helpers.color_runs import save_color_data, save_color_run
from helpers.shared import DATA, needs_data

from upernet.cli.main import main
from upernet.evaluation.folder import read_evaluation
from upernet.evaluation.report import SUMMARY
from upernet.evaluation.tables import CLASS_COLUMNS, PHOTO_COLUMNS

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Call]:
    """Run the command line in `tmp_path` on 80 columns; return exit status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        is_json = "--json" in arguments
        assert is_json or max(map(len, [*output.out.splitlines(), ""])) <= 80 or "Wrote" in output.out
        return int(str(exit_.value.code)), output.out, output.err

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Create the folder of a training run, and its data with photos of val alone."""
    folder = tmp_path / "runs" / "colors"
    save_color_run(folder, tmp_path / "data")
    save_color_data(tmp_path / "data")
    return folder


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """Create a run whose model takes the first two classes for each other."""
    folder = run.with_name("other")
    save_color_run(folder, tmp_path / "data", swapped=True)
    return folder


@pytest.mark.slow
def test_a_run_is_evaluated_by_its_folder(run: Path, call: Call, tmp_path: Path) -> None:
    status, out, error = call("evaluate", "runs/colors", "--device", "cpu", "--threads", 1, "--json", "scores.json")
    assert status == 0, error
    assert "Scored the photos of split val: 3 of objects, 2 of scenes." in out
    assert f"Wrote {Path('runs/colors/evaluation/val/index.html')}" in out
    folder = run / "evaluation" / "val"
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads((folder / "scores.json").read_text())
    assert "Evaluation of colors" in (folder / "index.html").read_text()
    assert [path.name for path in sorted((folder / "worst-object").iterdir())] == ["01.jpg", "02.jpg"]


@pytest.mark.slow
def test_a_recipe_writes_a_folder_only_if_asked(run: Path, call: Call, tmp_path: Path) -> None:
    weights = ["--checkpoint", run, "--device", "cpu"]
    before = sorted(path for path in tmp_path.rglob("*"))
    assert call("evaluate", run / "recipe.yaml", *weights)[0] == 0
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert call("evaluate", run / "recipe.yaml", *weights, "--pictures")[0] == 0
    assert (tmp_path / "evaluation/recipe/val/worst-object/01.jpg").is_file()
    assert call("evaluate", run / "recipe.yaml", *weights, "--out", "here", "--no-pictures")[0] == 0
    assert (tmp_path / "here/index.html").is_file() and not (tmp_path / "here/worst-object").exists()


@pytest.mark.slow
def test_json_on_stdout_is_all_that_is_printed(run: Path, call: Call) -> None:
    _, out, _ = call("evaluate", run, "--device", "cpu", "--quiet", "--json", "-")
    assert json.loads(out)["split"] == "val"


@pytest.mark.slow
def test_the_split_is_test_if_there_is_one(run: Path, call: Call, tmp_path: Path) -> None:
    save(tmp_path / "data/scenes/test/beach/a.png", halves(RED, RED, 64))
    status, out, error = call("evaluate", run, "--device", "cpu")
    assert status == 0, error
    assert "Scored the photos of split test: 1 of scenes." in out and (run / "evaluation/test/index.html").is_file()
    assert "Skipped sources without test photos" in out


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("data", "data: no training run, as it has no recipe.yaml; give a run or a recipe."),
        ("runs/nothing", "runs/nothing: no such folder or file; give a run or a recipe."),
    ],
)
def test_other_folders_are_refused(reference: str, sentence: str, run: Path, call: Call) -> None:
    status, _, error = call("evaluate", reference, "--data", "data")
    assert status == 2 and sentence in error and error.count("\n") == 1


def test_an_unfinished_run_has_no_model(run: Path, call: Call) -> None:
    (run / "model.safetensors").unlink()
    status, _, error = call("evaluate", run)
    assert status == 2 and "the run has no model.safetensors yet; go on with its training" in error


def test_data_that_is_gone(run: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "moved")
    status, _, error = call("evaluate", run, "--device", "cpu")
    assert status == 2 and "no photos of split 'val' for recipe 'colors'" in error
    assert not (run / "evaluation").exists()


@pytest.mark.slow
def test_runs_are_compared_and_evaluated_if_need_be(run: Path, other: Path, call: Call, tmp_path: Path) -> None:
    status, out, error = call("compare", "runs/colors", "runs/other", "--device", "cpu", "--out", "difference")
    assert status == 0, error
    assert "A: runs/colors\nB: runs/other\nPhotos of split val." in out
    assert "object, 3 photos" in out and "scene, 2 photos" in out and "paired bootstrap" in out
    assert "With only 2 photos, the intervals are too narrow" in out
    first = read_evaluation(run / "evaluation" / "val")
    written = json.loads((tmp_path / "difference" / "comparison.json").read_text())
    assert written["object"]["miou"]["first"] == pytest.approx(first["object"]["miou"])
    assert written["object"]["per_class"]["sky"]["second"] == 0 and written["object"]["per_class"]["sky"]["significant"]
    assert written["scene"]["top1"]["difference"] == 0
    rows = list(csv.DictReader((tmp_path / "difference" / "comparison.csv").open(newline="")))
    assert [row["class"] for row in rows if row["level"] == "object"] == ["mIoU", "sky", "tree", "person"]
    assert "runs/other" in (tmp_path / "difference" / "index.html").read_text()


@pytest.mark.slow
def test_an_evaluation_is_used_until_the_model_changes(run: Path, other: Path, call: Call) -> None:
    assert call("compare", run, other, "--device", "cpu")[0] == 0
    scores = other / "evaluation" / "val" / "scores.json"
    before = scores.stat().st_mtime_ns
    assert call("compare", run, other, "--device", "cpu")[0] == 0
    assert scores.stat().st_mtime_ns == before
    later = scores.stat().st_mtime + 10
    os.utime(other / "model.safetensors", (later, later))
    assert call("compare", run, other, "--device", "cpu")[0] == 0
    assert scores.stat().st_mtime_ns != before


@pytest.mark.slow
def test_folders_and_files_of_evaluations_are_compared(run: Path, other: Path, call: Call, tmp_path: Path) -> None:
    for name, folder in (("a", run), ("b", other)):
        assert call("evaluate", folder, "--device", "cpu", "--out", name, "--no-pictures")[0] == 0
    status, out, _ = call("compare", "a", "b/scores.json", "--json", "-")
    assert status == 0 and json.loads(out)["object"]["photos"] == 3
    assert call("compare", "a", "a")[1].count("+0.000 to +0.000") == 1 + 3 + 1 + 2
    (tmp_path / "other.yaml").write_text("levels: {object: {classes: [tree, sky, house]}}")
    status, out, _ = call("compare", "a", "b", "--as", "other.yaml", "--json", "-")
    assert status == 0 and set(json.loads(out)["object"]["per_class"]) == {"tree", "sky"}
    (tmp_path / "table.csv").write_text("level,class,to\nobject,tree,house\n")
    status, out, _ = call("compare", "a", "b", "--as", "other.yaml", "--table", "table.csv", "--json", "-")
    assert status == 0 and set(json.loads(out)["object"]["per_class"]) == {"house", "sky"}
    assert call("compare", "a", "b", "--table", "table.csv")[0] == 2
    (tmp_path / "alone.json").write_text((tmp_path / "a" / "scores.json").read_text())
    status, _, error = call("compare", "a", "alone.json")
    assert status == 2 and "the scores alone do not tell what was counted in each photo" in error
    status, _, error = call("compare", "a", "data")
    assert status == 2 and "data: neither the folder of a training run nor that of an evaluation" in error
    assert error.count("\n") == 1


PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.slow
def test_the_commands_of_the_page_on_metrics_run(call: Call, tmp_path: Path) -> None:
    for name in ("streets", "streets_longer"):
        save_color_run(tmp_path / "runs" / name, tmp_path / "data", swapped=name == "streets")
    save_color_data(tmp_path / "data")
    save_color_data(tmp_path / "data", "test")
    (tmp_path / "colors.yaml").write_text((tmp_path / "runs" / "streets" / "colors.yaml").read_text())
    (tmp_path / "my_recipe.yaml").write_text((tmp_path / "runs" / "streets" / "recipe.yaml").read_text())
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    commands = [line.split("#")[0].split() for block in blocks for line in block.splitlines()]
    assert len(commands) >= 4
    for program, *arguments in commands:
        assert program == "upernet"
        status, _, error = call(*arguments)
        assert status == 0, (arguments, error)
    for written in ("runs/streets/evaluation/test/index.html", "difference/index.html", "scores/index.html"):
        assert (tmp_path / written).is_file(), written


@needs_data
@pytest.mark.slow
def test_the_code_of_the_page_on_metrics_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").symlink_to(DATA)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("photos=20", "photos=3"), names)
    assert names["matrix"].counts.sum() > 300_000


def test_the_page_on_metrics_names_every_metric_and_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in (*SUMMARY.values(), *CLASS_COLUMNS, *PHOTO_COLUMNS):
        assert f"`{name}`" in page or f"**{name}**" in page, name
