"""Tests of `upernet ablate`, and of the benchmark that `upernet evaluate` prints for Broden+."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.broden import make_ade_2021, make_dtd, make_opensurfaces
from helpers.command_line import Run

from upernet.evaluation.benchmark import PAPER, PUBLISHED, benchmark_table

MASKS = ("scenes_and_objects", "materials")
SETTINGS = [
    "model.backbone=mobilenetv3_small_050",
    "model.backbone_weights=null",
    "model.decoder_channels=8",
    "model.texture={channels: 8, depth: 1}",
    "training.workers=0",
    *(f"sources.{name}.batch_size=2" for name in (*MASKS, "textures")),
    *(f"sources.{name}.augmentation={{crop: [32, 32], scale: [4.0, 6.0]}}" for name in MASKS),
    *(f"sources.{name}.test_resize={{short_side: 32}}" for name in MASKS),
]
ABLATE = ("--iterations", "4", "--quiet", *(part for setting in SETTINGS for part in ("--set", setting)))


@pytest.mark.slow
def test_one_model_per_subset_then_what_is_done_is_kept(tmp_path: Path, run: Run) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    ade, surfaces = make_ade_2021(tmp_path), make_opensurfaces(tmp_path)
    prepare = ("data", "prepare", "broden", data, "--ade20k", ade, "--opensurfaces", surfaces, "--workers", "1")
    assert run(*prepare).status == 0
    ablate = ("ablate", "upp_resnet50_broden", "--data", data, "--out", out, *ABLATE)
    result = run(*ablate)
    assert result.status == 0, result.stderr
    assert "Left out, as no source has photos for them: texture." in result.stdout
    written = {path.name for path in out.iterdir() if path.name != ".lock"}
    assert written == {"O", "O+P", "O+P+S", "O+P+S+M", "ablation.md", "ablation.json"}
    rows = json.loads((out / "ablation.json").read_text())["rows"]
    assert [*rows] == ["+O", "+O+P", "+O+P+S", "+O+P+S+M", PAPER]
    assert [*rows["+O"]] == ["object"] and {*rows["+O+P+S+M"]} >= {"scene", "object", "part"}
    table = (out / "ablation.md").read_text()
    assert table.splitlines()[0].endswith(f"+O+P+S+M | {PAPER} |") and table.splitlines()[0] in result.stdout
    assert all(len(line) <= 80 for line in table.splitlines() if line.startswith("|"))

    (out / "O+P" / "evaluation" / "val" / "scores.json").unlink()  # as if it had been interrupted there
    model = (out / "O" / "model.safetensors").stat().st_mtime_ns
    result = run(*ablate)
    assert result.status == 0 and "+O: done before" in result.stdout and "+O+P: training" in result.stdout
    assert (out / "O" / "model.safetensors").stat().st_mtime_ns == model
    assert json.loads((out / "ablation.json").read_text())["rows"] == rows

    benchmark = run("evaluate", out / "O+P", "--metrics", "published", "--json", tmp_path / "scores.json")
    assert benchmark.status == 0, benchmark.stderr
    assert "| part mIoU " in benchmark.stdout and PAPER in benchmark.stdout
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["metrics"] == "published" and scores["object"]["miou"] is not None
    folder = out / "O+P" / "evaluation" / "val-published"
    published = json.loads((folder / "benchmark.json").read_text())["rows"][PAPER]
    assert published == {level: PUBLISHED[level] for level in ("object", "part")}
    assert "by the rules of the released code" in (folder / "benchmark.md").read_text()


def test_mistakes_are_one_sentence(tmp_path: Path, run: Run) -> None:
    data = tmp_path / "data"
    assert run("data", "prepare", "broden", data, "--dtd", make_dtd(tmp_path), "--workers", "1").status == 0
    for arguments, complaint in (
        (("ablate", "upp_resnet50_broden"), "does not say where its data is; give --data DIR"),
        (("ablate", "upp_resnet50_broden", "--data", tmp_path), "no source of recipe upp_resnet50_broden has photos"),
        (("ablate", "upp_resnet50_upernet", "--data", data), "has no training section"),
        (("train", "upp_resnet50_broden", "--data", data), "Without it: --set 'levels=[texture]'."),
    ):
        result = run(*arguments)
        assert result.status == 2 and complaint in result.stderr and not result.stdout, arguments
        assert len(result.stderr.splitlines()) == 1


def test_the_table_shows_what_was_scored_beside_the_paper() -> None:
    rows = {"mine": {"object": {"miou": 0.5, "pixel_accuracy": None}}, PAPER: PUBLISHED}
    assert benchmark_table(rows) == (
        "|             |  mine | paper, ResNet-50 |\n"
        "| ----------- | ----: | ---------------: |\n"
        "| object mIoU | 50.00 |            23.36 |\n"
    )
