"""Tests of upernet.training.checking, and of the part of `upernet data check` that shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from upernet.cli.data import app
from upernet.recipe import load_recipe
from upernet.training.checking import training_problems

STAGE: dict[str, Any] = {"name": "all", "iterations": 3, "sources": ["streets", "places"], "learning_rate": 0.003}
Write = Callable[..., Path]


def test_a_good_recipe_has_no_problems(data: Path, recipe_file: Write) -> None:
    assert training_problems(load_recipe(recipe_file()), data) == []


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"backbone": "resnet1800"}, "unknown backbone 'resnet1800'"),
        ({"backbone": "resnet50.nosuch"}, "backbone 'resnet50.nosuch': timm has no such weights of resnet50; it has "),
        ({"backbone": "vit_base_patch16_224"}, "has features at strides [16, 16, 16]"),
        ({"backbone": "internimage_t", "backbone_options": {"depth": 1}}, "backbone_options of internimage_t: depth: "),
        ({"backbone_options": {"x": 1}}, "does not support backbone_options"),
        ({"backbone_weights": "nosuch.pth"}, "nosuch.pth: no such file with weights for backbone mobilenetv3"),
        ({"backbone_weights": "package:no.such"}, "package no.such is not installed"),
        ({"backbone_weights": "zoo"}, "mobilenetv3_small_050: not in the zoo"),
    ],
)
def test_what_is_wrong_with_a_model(data: Path, recipe_file: Any, model: dict[str, Any], problem: str) -> None:
    recipe_file.recipe["model"].update(model)
    (found,) = training_problems(load_recipe(recipe_file()), data)
    assert problem in found and "\n" not in found


def test_every_stage_is_checked(data: Path, recipe_file: Any) -> None:
    stages = [STAGE | {"frozen_backbone_stages": 9}, STAGE | {"trains": "texture"}, STAGE | {"layer_decay": 0.9}]
    recipe_file.recipe["calibration"] = {"negatives": {"texture": ["nosuch"]}}
    recipe = load_recipe(recipe_file(stages=stages, initialize_from="nosuch.pth", validation={"split": "val"}))
    calibration, validation, initial, first, second = training_problems(recipe, data)
    assert "no source has photos of split val" in validation
    assert "there is no source 'nosuch'" in calibration
    assert initial == "nosuch.pth: no such checkpoint file."
    assert "9 is more than the backbone's" in first
    assert "source streets has none; take it out of the stage" in second


def test_data_check_reports_what_training_would_refuse(data: Path, recipe_file: Any) -> None:
    recipe_file.recipe["model"]["backbone"] = "resnet1800"
    result = CliRunner().invoke(app, ["check", str(recipe_file()), "--data", str(data)])
    assert result.exit_code == 1
    assert "problem recipe: unknown backbone 'resnet1800'" in " ".join(result.stdout.split())
    assert "1 problem" in result.stdout
