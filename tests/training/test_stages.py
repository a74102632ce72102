"""Tests of upernet.training.stages: opening the stages of a run checks them and does not change the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from upernet.distributed import World
from upernet.errors import UpernetError
from upernet.models import UPerNet, build_model
from upernet.recipe import load_recipe
from upernet.training.optimizer import select_trained, trained_parameters
from upernet.training.stages import Stage, open_stages

STAGE: dict[str, Any] = {"name": "all", "iterations": 3, "sources": ["streets", "places"], "learning_rate": 0.003}


@pytest.fixture
def open_them(data, recipe_file):
    def opened(*stages: dict[str, Any], processes: int = 1) -> tuple[UPerNet, list[Stage]]:
        recipe = load_recipe(recipe_file(**({"stages": list(stages)} if stages else {})))
        assert recipe.training is not None
        model = build_model(recipe)
        return model, open_stages(recipe, recipe.training, model, data, World(0, processes, torch.device("cpu")))

    return opened


def test_opening_does_not_freeze_the_model(open_them):
    """The last stage of the recipe trains one head only."""
    model, stages = open_them()
    assert stages[-1].spec.trains == "texture"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_trained_parameters_are_those_that_are_selected(open_them):
    model, stages = open_them(STAGE, STAGE | {"frozen_backbone_stages": 2}, STAGE | {"trains": "scene"})
    for stage in stages:
        expected = {id(parameter) for parameter in trained_parameters(model, stage.spec)}
        select_trained(model, stage.spec)
        assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == expected
        assert expected


def test_stages_keep_their_numbers_and_draw_other_photos(open_them):
    _, (first, second) = open_them(STAGE, STAGE | {"sources": {"places": 1.0, "streets": 3.0}})
    assert (first.number, second.number) == (0, 1)
    assert second.sampler.weights == {"places": 1.0, "streets": 3.0}
    assert [first.sampler.plan(i).seeds for i in range(4)] != [second.sampler.plan(i).seeds for i in range(4)]


@pytest.mark.parametrize(("iterations", "warmup"), [(10, 2), (30, 5), (100, 15), (200, 15)])
def test_a_shorter_stage_has_a_shorter_warmup(open_them, data, recipe_file, iterations, warmup):
    recipe = load_recipe(recipe_file(stages=[STAGE | {"iterations": 100, "warmup_iterations": 15}]))
    assert recipe.training is not None
    (stage,) = recipe.training.stages
    shorter = recipe.training.model_copy(update={"stages": (stage.model_copy(update={"iterations": iterations}),)})
    (opened,) = open_stages(recipe, shorter, build_model(recipe), data, World(0, 1, torch.device("cpu")))
    assert (opened.spec.iterations, opened.spec.warmup_iterations) == (iterations, warmup)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "processes", "message"),
    [
        ({"trains": "texture"}, 1, "source streets has none; take it out of the stage"),
        ({"frozen_backbone_stages": 9}, 1, "is more than the backbone's"),
        ({}, 5, r"sources\.streets\.batch_size: 4 photos cannot be shared by 5 processes"),
    ],
)
def test_mistakes_of_a_later_stage_show_before_the_first(open_them, change, processes, message):
    with pytest.raises(UpernetError, match=message):
        open_them(STAGE, STAGE | change, processes=processes)


def test_single_photos_need_frozen_batch_norms(open_them, recipe_file):
    recipe_file.recipe["sources"]["places"]["batch_size"] = 1
    with pytest.raises(UpernetError, match=r"sources\.places\.batch_size: batch norms need at least 2 photos"):
        open_them(STAGE)
    open_them(STAGE | {"freeze_norm": "all"})
