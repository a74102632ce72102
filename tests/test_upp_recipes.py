"""Tests of the recipes that train Unified Perceptual Parsing on Broden+."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from upernet.errors import UpernetError
from upernet.models import UPerNet, build_model
from upernet.overrides import override
from upernet.recipe import FolderSpec, LabelTableSpec, Recipe, list_recipes, load_recipe
from upernet.training.optimizer import set_norm_momentum

RESNETS = ("upp_resnet50_broden", "upp_resnet101_broden")
MODERN = (
    "upp_swin_t_broden",
    "upp_convnext_t_broden",
    *(f"upp_internimage_{variant}_broden" for variant in "tsb"),
)
STAGE = "training.stages.0"


def first_stage(recipe: Recipe):
    assert recipe.training is not None
    return recipe.training.stages[0].with_own_optimizer()


@pytest.mark.parametrize("names", [RESNETS, MODERN], ids=["ResNets", "others"])
def test_recipes_of_a_kind_differ_only_in_their_network_and_its_rates(names: tuple[str, ...]) -> None:
    """Each recipe says everything itself, so that a change must be made in all of them."""

    def shared(name: str) -> dict[str, Any]:
        values = load_recipe(name).model_dump(mode="json", exclude={"name", "description"})
        for key in ("backbone", "backbone_weights", "drop_path", "feature_norms"):
            del values["model"][key]
        for key in ("learning_rate", "weight_decay"):
            del values["training"]["stages"][0][key]
        return values

    first = shared(names[0])
    for name in names[1:]:
        assert shared(name) == first, name


def test_the_kinds_differ_only_in_what_the_page_says() -> None:
    """The sources, but for the augmentation of colors and the antialiased resize, the losses, and the levels."""

    def common(name: str) -> dict[str, Any]:
        values = load_recipe(name).model_dump(mode="json", include={"taxonomy", "sources", "loss", "levels"})
        for source in values["sources"].values():
            source["augmentation"].pop("photometric")
            source["test_resize"].pop("antialias")
        return values

    assert common(RESNETS[0]) == common(MODERN[0])


def settings_of_the_page() -> list[tuple[str, str]]:
    """Return every recipe with every setting of docs/upp.md, but for the taxonomy, a file that a command writes."""
    text = (Path(__file__).parents[1] / "docs" / "upp.md").read_text(encoding="utf-8")
    settings = re.findall(r"--set '?([\w.]+=(?:\[[^\]]*\]|[^\s'`]+))", text)
    pairs = re.findall(r"`--set ([\w.]+)=[^`]+` \| `=([^`]+)`", text)
    settings += [f"{key}={value}" for key, value in pairs]
    assert len(settings) >= 11 and "training.stages.0.optimizer=sgd" in settings
    return [(name, setting) for setting in settings if not setting.startswith("taxonomy=") for name in RESNETS + MODERN]


@pytest.mark.parametrize(("name", "setting"), settings_of_the_page())
def test_every_setting_of_the_page_is_one_of_every_recipe(name: str, setting: str) -> None:
    key, _, value = setting.partition("=")
    changed = override(load_recipe(name), [setting])
    found: Any = changed.model_dump(mode="json")
    for part in key.split("."):
        found = found[int(part)] if part.isdigit() else found[part]
    assert found == yaml.safe_load(value) or list(found) == yaml.safe_load(value)


def test_there_are_no_others() -> None:
    assert {name for name in list_recipes() if name.endswith("_broden")} == {*RESNETS, *MODERN}


@pytest.mark.parametrize("name", RESNETS + MODERN)
def test_the_strategy_is_the_papers(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.training is not None and list(recipe.load_taxonomy().levels) == [
        "scene", "object", "part", "material", "texture"
    ]  # fmt: skip
    weights = recipe.loss.weights
    assert weights == {"object": 1, "part": 0.5, "scene": 0.25, "material": 1, "texture": 1}
    assert (recipe.loss.stride, recipe.loss.average) == (4, "known")
    tasks, textures = recipe.training.stages
    assert (tasks.iterations, tasks.power, tasks.sources) == (200_000, 0.9, ("scenes_and_objects", "materials"))
    assert (textures.trains, textures.sources) == ("texture", ("textures",))
    for source in recipe.sources.values():
        assert isinstance(source, LabelTableSpec) and source.weight is None and source.terms.research_only
    assert [recipe.sources[source].batch_size for source in tasks.sources] == [16, 16]
    shown = recipe.sources["textures"]
    assert (shown.augmentation.short_side, shown.augmentation.crop) == (64, (64, 64))
    assert shown.supervision_by_level == {"texture": "broadcast"}
    model = recipe.model
    assert (model.decoder_channels, model.auxiliary_channels, model.head_channels) == (512, None, None)
    assert model.texture.features == ("C2",) and (model.texture.channels, model.texture.depth) == (128, 4)


@pytest.mark.parametrize("name", RESNETS)
def test_the_resnets_are_trained_as_published(name: str) -> None:
    recipe, stage = load_recipe(name), first_stage(load_recipe(name))
    released = load_recipe(name.replace("_broden", "_upernet"))
    kept = {"backbone_weights", "initialization"}
    assert recipe.model.model_dump(exclude=kept) == released.model.model_dump(exclude=kept)
    assert recipe.model.initialization == "released"
    assert (stage.optimizer, stage.learning_rate, stage.weight_decay, stage.warmup_iterations) == ("sgd", 0.02, 1e-4, 0)
    assert recipe.training is not None
    assert (recipe.training.precision, recipe.training.ema_decay) == ("fp32", None)
    for source in ("scenes_and_objects", "materials"):
        own = recipe.sources[source]
        assert own.test_resize == released.sources[source].test_resize
        assert own.annotated == released.sources[source].annotated


@pytest.mark.parametrize("name", RESNETS + MODERN)
def test_what_the_paper_did_not_have_is_one_setting_each(name: str) -> None:
    recipe = load_recipe(name)
    adamw = first_stage(override(recipe, [f"{STAGE}.optimizer=adamw"]))
    assert adamw.layer_decay < 1 and adamw.learning_rate <= 1e-4 and adamw.warmup_iterations == 1500
    sgd = first_stage(override(recipe, [f"{STAGE}.optimizer=sgd"]))
    assert (sgd.learning_rate, sgd.weight_decay, sgd.layer_decay, sgd.warmup_iterations) == (0.02, 1e-4, 1, 0)
    for setting, key, value in (
        ("training.precision=bf16", "precision", "bf16"),
        ("training.precision=fp32", "precision", "fp32"),
        ("training.ema_decay=0.9998", "ema_decay", 0.9998),
        ("training.ema_decay=null", "ema_decay", None),
    ):
        changed = override(recipe, [setting])
        assert changed.training is not None and getattr(changed.training, key) == value
    assert first_stage(override(recipe, [f"{STAGE}.layer_decay=1.0"])).layer_decay == 1


def test_levels_take_their_sources_and_stages_with_them() -> None:
    recipe = load_recipe("upp_resnet50_broden")
    objects = override(recipe, ["levels=[object]"])
    assert list(objects.sources) == ["scenes_and_objects"] and list(objects.load_taxonomy().levels) == ["object"]
    assert list(objects.sources["scenes_and_objects"].annotated) == ["object"]
    assert objects.training is not None
    (stage,) = objects.training.stages
    assert stage.sources == ("scenes_and_objects",)
    textures = override(recipe, ["levels=[texture]"])
    assert textures.training is not None and [s.name for s in textures.training.stages] == ["textures"]
    assert override(recipe, ["levels=[scene,object,part,material,texture]"]).sources == recipe.sources
    with pytest.raises(UpernetError, match="level part needs the level object"):
        override(recipe, ["levels=[part]"]).load_taxonomy()


def test_levels_are_dropped_everywhere() -> None:
    recipe = override(load_recipe("everyday"), ["levels=[scene,object]"])
    assert recipe.training is not None
    kept = {"scene", "object"}
    for source in recipe.sources.values():
        assert (
            isinstance(source, FolderSpec) and source.annotated.keys() <= kept and source.pseudo_labels.keys() <= kept
        )
        assert all(annotation.implies.keys() <= kept for annotation in source.annotated.values())
    for loss in (recipe.loss, *(stage.loss for stage in recipe.training.stages if stage.loss)):
        assert loss.class_weights.keys() <= kept
    assert recipe.calibration.target_precision.keys() == kept == recipe.calibration.negatives.keys()
    assert all(source in recipe.sources for named in recipe.calibration.negatives.values() for source in named)
    assert all(source in recipe.sources for stage in recipe.training.stages for source in stage.sources)


def test_the_decoder_starts_as_released() -> None:
    recipe = load_recipe("upp_resnet50_broden")
    torch.manual_seed(0)
    model = build_model(override(recipe, ["model.backbone=resnet18", "model.decoder_channels=16"]))
    for module in model.fusion.modules() if model.fusion else ():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and torch.allclose(module.bias, torch.tensor(1e-4))
    scene = model.heads["scene"].classifier
    assert isinstance(scene, nn.Linear)
    assert float(scene.weight.detach().std()) == pytest.approx((2 / 16) ** 0.5, rel=0.1) and bool(scene.bias.any())


def test_norms_average_evenly_over_the_first_iterations() -> None:
    model = UPerNet("resnet18", classes=2, decoder_channels=8, norm_momentum=0.001)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    values = [5.0, 1.0, 3.0, 7.0]
    running, tracked, weight = 0.0, 0.0, 1.0  # as the released batch norm: sums of values and of weights
    mean = 0.0
    for iteration, value in enumerate(values):
        tracked, weight = 0.999 * tracked + value, 0.999 * weight + 1
        set_norm_momentum(model, iteration)
        assert norm.momentum is not None
        mean += norm.momentum * (value - mean)
        running = tracked / weight
        assert mean == pytest.approx(running)
    set_norm_momentum(model, 100_000)
    assert norm.momentum == pytest.approx(0.001)
    other = UPerNet("resnet18", classes=2, decoder_channels=8)
    set_norm_momentum(other, 0)
    assert all(module.momentum == 0.1 for module in other.modules() if isinstance(module, nn.BatchNorm2d))
