"""Tests of the recipes of the published tables of UPerNet with InternImage and FlashInternImage on ADE20K."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from helpers.shared import REFERENCE

from upernet.recipe import Augmentation, Resize, list_recipes, load_recipe

FACTS = REFERENCE / "internimage_ade20k_recipe.md"


@dataclass(frozen=True)
class Row:
    """A column of the table of variants in the facts, or a published configuration of FlashInternImage."""

    crop: int
    long_side: int
    learning_rate: float
    layer_decay: float
    gradient_clipping: float | None
    drop_path: float
    batch: tuple[int, int]
    """GPUs and photos on each."""
    weights: str | None
    miou: tuple[str, str]
    checkpointing: bool = False
    multiple: int = 32


ROWS = {
    "t": Row(512, 2048, 6e-5, 1.0, None, 0.2, (8, 2), "zoo", ("47.9", "48.1")),
    "s": Row(512, 2048, 6e-5, 1.0, None, 0.3, (8, 2), "zoo", ("50.1", "50.9")),
    "b": Row(512, 2048, 6e-5, 1.0, None, 0.4, (8, 2), "zoo", ("50.8", "51.3")),
    "l": Row(640, 2560, 2e-5, 0.94, 0.1, 0.4, (8, 2), "zoo", ("53.9", "54.1"), True),
    "xl": Row(640, 2560, 2e-5, 0.94, 0.1, 0.4, (8, 2), "zoo", ("55.0", "55.3"), True),
    "h": Row(896, 3584, 2e-5, 0.95, 0.1, 0.5, (16, 1), None, ("59.9", "60.3"), True),
}
FLASH = {
    "t": Row(512, 2048, 6e-5, 1.0, None, 0.2, (8, 2), "zoo", ("49.3", "50.3"), True, multiple=1),
    "s": Row(512, 2048, 6e-5, 1.0, None, 0.3, (8, 2), "zoo", ("50.6", "51.6"), True),
    "b": Row(512, 2048, 6e-5, 1.0, None, 0.3, (8, 2), "zoo", ("52.0", "52.6")),
    "l": Row(640, 2560, 2e-5, 0.94, 0.1, 0.4, (8, 2), "zoo", ("55.6", "56.0")),
}
EVERY = {f"internimage_{key}": row for key, row in ROWS.items()}
EVERY |= {f"flash_internimage_{key}": row for key, row in FLASH.items()}


def name_of(backbone: str) -> str:
    return f"upernet_{backbone}_{EVERY[backbone].crop}_160k_ade20k"


def test_every_row_is_a_recipe_and_no_other():
    assert {name for name in list_recipes() if name.endswith("_ade20k")} == {name_of(backbone) for backbone in EVERY}


@pytest.mark.parametrize("backbone", EVERY)
def test_values_are_the_published_ones(backbone):
    row, recipe = EVERY[backbone], load_recipe(name_of(backbone))
    assert recipe.taxonomy == "ade20k150" and recipe.parse_short_side == row.crop
    assert all(score in recipe.description for score in row.miou)

    model = recipe.model
    assert (model.backbone, model.backbone_options) == (backbone, {})
    assert (model.backbone_weights, model.drop_path) == (row.weights, row.drop_path)
    assert (model.decoder_channels, model.pool_scales) == (512, (1, 2, 3, 6))
    assert (model.head_channels, model.auxiliary_channels, model.dropout) == (0, 256, 0.1)
    assert not model.feature_norms

    assert list(recipe.sources) == ["ade20k"]
    source = recipe.sources["ade20k"]
    assert (source.kind, source.level, source.path) == ("mask_folder", "object", "ade20k/{split}")
    assert source.splits == {"train": "training", "val": "validation", "test": "validation"}
    assert source.classes == {} and source.ignore == (0, 255) and source.held_back == 0 and source.implies == {}
    assert source.batch_size == row.batch[0] * row.batch[1] == 16
    assert source.augmentation == Augmentation(
        short_side=row.crop,
        long_side=row.long_side,
        scale=(0.5, 2.0),
        scale_distribution="uniform",
        antialias=False,
        crop=(row.crop, row.crop),
        max_class_share=0.75,
        flip=True,
        photometric="hsv",
    )
    assert source.test_resize == Resize(
        short_side=row.crop, long_side=row.long_side, multiple=row.multiple, antialias=False
    )

    loss = recipe.loss
    assert (loss.stride, loss.average, loss.auxiliary, loss.weights["object"]) == (1, "all", 0.4, 1.0)
    assert loss.class_weights == {}

    training = recipe.training
    assert training is not None and len(training.stages) == 1
    assert (training.precision, training.ema_decay, training.initialize_from) == ("fp32", None, None)
    assert (training.gradient_clipping, training.checkpoint_every, training.workers) == (row.gradient_clipping, 1000, 4)
    assert training.gradient_checkpointing == row.checkpointing
    stage = training.stages[0]
    assert (stage.iterations, stage.sources, stage.trains) == (160_000, ("ade20k",), "all")
    assert (stage.optimizer, stage.learning_rate, stage.weight_decay) == ("adamw", row.learning_rate, 0.05)
    assert (stage.layer_decay, stage.backbone_learning_rate_factor) == (row.layer_decay, 1.0)
    assert (stage.warmup_iterations, stage.power) == (1500, 1.0)
    assert (stage.freeze_norm, stage.frozen_backbone_stages) == ("none", 0)
    assert stage.loss is None and stage.augmentation == {}


@pytest.mark.skipif(not FACTS.is_file(), reason="needs ../shared/reference beside the checkout")
def test_the_rows_are_those_of_the_facts():
    lines = FACTS.read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    variants = [name.lower() for name in table[0][1:]]
    facts = {cells[0]: dict(zip(variants, cells[1:], strict=True)) for cells in table[2:]}

    def fact(row: str, variant: str) -> str:
        text = facts[row][variant]
        return fact(row, variants[variants.index(variant) - 1]) if text == "same" else text

    for variant, row in ROWS.items():
        assert fact("crop / test scale", variant) == f"{row.crop} / {row.long_side}x{row.crop}"
        assert float(fact("base lr", variant)) == row.learning_rate
        assert float(fact("layer decay (num_layers)", variant).split()[0]) == row.layer_decay
        clip = re.fullmatch(r"none|L2 (.*)", fact("grad clip", variant))
        assert clip and (float(clip[1]) if clip[1] else None) == row.gradient_clipping
        assert float(fact("drop_path", variant)) == row.drop_path
        assert fact("GPUs x imgs", variant) == "{}x{}".format(*row.batch)
        assert fact("mIoU ss/ms (README)", variant) == "/".join(row.miou)
