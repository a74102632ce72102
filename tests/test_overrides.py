"""Tests of upernet.overrides: `--set KEY=VALUE`."""

from __future__ import annotations

import pytest

from upernet.errors import UpernetError
from upernet.overrides import override
from upernet.recipe import list_recipes, load_recipe


def test_values_go_to_mappings_and_lists() -> None:
    recipe = override(
        load_recipe("camvid"),
        [
            "training.stages.0.learning_rate=5e-1",
            "training.validation.every=7",
            "training.stages.1.loss.class_weights.object.sky=3",
            "sources.camvid.augmentation={crop: [64, 96]}",
            "calibration.target_precision.object=0.75",
            "training.ema_decay=null",
        ],
    )
    assert recipe.training is not None and recipe.training.validation is not None
    assert recipe.training.stages[0].learning_rate == 0.5 and recipe.training.validation.every == 7
    assert recipe.training.stages[1].loss is not None
    assert recipe.training.stages[1].loss.class_weights["object"]["sky"] == 3
    assert recipe.sources["camvid"].augmentation.crop == (64, 96) and recipe.training.ema_decay is None
    assert recipe.calibration.target_precision == {"object": 0.75} and recipe.name == "camvid"


@pytest.mark.parametrize("name", list_recipes())
def test_a_value_that_is_there_already_changes_nothing(name: str) -> None:
    recipe = load_recipe(name)
    assert override(recipe, [f"model.backbone={recipe.model.backbone}"]) == recipe


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.stages.0.lr=1", "training.stages.0.lr"),
        ("training.stages.7.learning_rate=1", "training.stages is a list of 2; give a position from 0"),
        ("training.stages.0.name.x=1", "training.stages.0.name is a value, which holds no other settings"),
        ("training.seed=many", "training.seed"),
        ("training.seed", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("training.seed=[1", "--set training.seed=[1:1: not valid YAML: "),
        ("training.seed=!!int x", "'x' is not a value of the type int"),
        ("training.seed=1e30", "training.seed: should be a valid integer"),
        (f"training.stages.{'9' * 5000}.name=x", "training.stages is a list of 2; give a position from 0"),
    ],
)
def test_mistakes_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UpernetError) as error:
        override(load_recipe("camvid"), [assignment])
    assert message in str(error.value)
