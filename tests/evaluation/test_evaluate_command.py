"""Tests of `upernet evaluate` and of upernet.evaluation.report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.color_checkpoint import save_color_recipe
from helpers.color_network import GREEN, RED, halves, save
from rich.console import Console

from upernet.cli.evaluate import evaluate
from upernet.cli.main import main
from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult, TestTimeAugmentation
from upernet.evaluation.report import tables

SOURCES = {
    "scenes": {"kind": "label_folder", "path": "scenes/{split}", "level": "scene"},
    "elsewhere": {"kind": "label_folder", "path": "elsewhere/{split}", "level": "material"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a recipe of the model, and photos for it; the number of threads is reset afterwards."""
    monkeypatch.setenv("COLUMNS", "80")
    save_color_recipe(tmp_path / "mine.yaml", SOURCES)
    for label, color in (("beach", RED), ("forest", GREEN), ("night", RED)):
        save(tmp_path / "data" / "scenes" / "test" / label / "a.png", halves(color, color))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def run(folder: Path, checkpoint: Path | None, **options: Any) -> None:
    weights = None if checkpoint is None else str(checkpoint)
    evaluate(str(folder / "mine.yaml"), folder / "data", weights, device="cpu", threads=1, **options)


@pytest.mark.slow
def test_writes_the_scores_and_prints_tables(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, checkpoint, json=folder / "out" / "scores.json")
    result = json.loads((folder / "out" / "scores.json").read_text())
    assert result["scene"]["top1"] == pytest.approx(2 / 3) and result["skipped"] == ["elsewhere"]
    printed = capsys.readouterr().out
    assert "scene: top-1 0.667, top-5 1.000" in printed and "night" in printed
    assert "elsewhere." in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.slow
def test_test_time_augmentation_is_written_and_printed(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, checkpoint, json=folder / "scores.json", scales="0.5, 1,1.5", flip=True, window=48)
    result = json.loads((folder / "scores.json").read_text())
    assert result["testing"] == {"scales": [0.5, 1, 1.5], "flip": True, "window": 48, "stride": 32}
    assert result["scene"]["top1"] == pytest.approx(2 / 3)
    printed = " ".join(capsys.readouterr().out.split())
    assert "augmentation: scales 0.5, 1, 1.5; mirrored photos; windows of 48 pixels every 32 pixels." in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scales", ""], "scales: the list is empty"),
        (["--scales", "0.5,,1"], "--scales 0.5,,1: give numbers separated by commas"),
        (["--scales", "half"], "--scales half: give numbers"),
        (["--scales", "1,-1"], "scales: -1 is not a positive number"),
        (["--stride", "32"], "stride: 32 has no effect without a window"),
        (["--window", "16"], "window: 16 pixels are too few"),
        (["--window", "64", "--stride", "128"], "stride: 128 pixels"),
    ],
)
def test_options_that_cannot_be(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", "camvid", "--data", ".", *options])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("upernet: ") and sentence in error


def test_no_shipped_weights(folder: Path) -> None:
    with pytest.raises(UpernetError, match=r"mine\.yaml has no bundled or published weights"):
        run(folder, None)


def test_a_file_that_cannot_be_written_is_known_before_the_work(folder: Path, checkpoint: Path) -> None:
    """Scoring would fail, too, as there are no photos of the split; the error is the file's."""
    with pytest.raises(UpernetError, match="cannot be written"):
        run(folder, checkpoint, split="val", json=folder / "mine.yaml" / "scores.json")


def test_a_failed_evaluation_leaves_the_earlier_file(folder: Path, checkpoint: Path) -> None:
    scores = folder / "scores.json"
    scores.write_text("earlier")
    before = sorted(folder.iterdir())
    with pytest.raises(UpernetError, match="no photos of split 'val'"):
        run(folder, checkpoint, split="val", json=scores)
    assert scores.read_text() == "earlier"
    assert sorted(folder.iterdir()) == before


def test_tables_fit_a_terminal_of_80_columns() -> None:
    long = "a name of a class that goes on for a good deal longer than anybody would expect of one"
    row = {"iou": 0.5, "accuracy": None, "pixels": 1_234_567_890, "top1": 1.0, "photos": 3}
    absent = {"iou": None, "accuracy": None, "pixels": 0, "top1": None, "photos": 0}
    level = {
        "miou": 0.5,
        "pixel_accuracy": 1.0,
        "mean_accuracy": 0.75,
        "classes_absent": ["absent"],
        "per_class": {long: row, "absent": absent},
        "top1": 0.25,
    }
    console = Console(width=80, record=True, file=io.StringIO())
    result = {
        "material": level,
        "sources": {},
        "weak": {"streets": {"material": level}},
        "split": "test",
        "photos": {},
        "skipped": [],
        "testing": TestTimeAugmentation().to_dict(),
    }
    for table in tables(EvaluationResult.from_dict(result)):
        console.print(table)
    printed = console.export_text()
    assert max(map(len, printed.splitlines())) <= 80 and "augmentation" not in printed
    assert "1,234,567,890" in printed and "absent" not in printed
    assert "material: mIoU 0.500, pixel accuracy 1.000, mean accuracy 0.750, top-1 0.250" in printed
    assert "material, implied labels of streets: mIoU 0.500" in printed
