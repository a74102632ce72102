"""Tests of the limits of recipes: every number has them, and no value gives a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from upernet.errors import UpernetError
from upernet.models.flash_internimage import FlashInternImageSpec
from upernet.models.internimage import InternImageSpec
from upernet.recipe import RECIPES, Recipe
from upernet.settings import Settings, check_settings, parse_settings

RECIPE: dict[str, Any] = {
    "description": "d",
    "taxonomy": "camvid",
    "model": {"backbone": "internimage_t", "backbone_options": {"channels": 64, "depths": [4, 4, 18, 4]}},
    "sources": {
        "a": {"kind": "mask_folder", "path": "a/{split}", "level": "object", "test_resize": {"short_side": 540}}
    },
    "training": {"stages": [{"name": "s", "iterations": 1, "sources": ["a"], "learning_rate": 0.1}]},
}
ABSURD = st.one_of(
    st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**9, 10**400, 1e30, 1e308, -1e308, 5e-324, 0.5, True, False, None]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), "1e-4", "nan", "x", "", [], {}, [1], {"a": 1}]),
    st.integers(),
    st.floats(),
)


def numbers_of(schema: dict[str, Any], place: str, root: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every place of a JSON schema that takes a number."""
    if schema.get("type") in ("integer", "number") and not {"const", "enum"} & schema.keys():
        yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from numbers_of(inner, f"{place}.{name}", root)
    for name, inner in schema.get("$defs", {}).items():
        yield from numbers_of(inner, name, root)
    listed = [schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())]
    for inner in (*listed, *schema.get("prefixItems", ())):
        if isinstance(inner, dict):
            yield from numbers_of(inner, place, root)


@pytest.mark.parametrize("model", [Recipe, InternImageSpec, FlashInternImageSpec])
def test_every_number_has_limits(model: type[Settings]) -> None:
    schema = model.model_json_schema()
    found = list(numbers_of(schema, model.__name__, schema))
    assert found
    unlimited = [
        place
        for place, number in found
        if not {"minimum", "exclusiveMinimum"} & number.keys() or not {"maximum", "exclusiveMaximum"} & number.keys()
    ]
    assert not unlimited


def leaves(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every number."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield from leaves(value, (*place, key))
    if isinstance(values, int | float):
        yield place


FULL: dict[str, Any] = Recipe.model_validate(RECIPE).model_dump(mode="json")
"""The recipe with the defaults of all keys."""


@given(place=st.sampled_from(list(leaves(FULL))), value=ABSURD)
def test_absurd_numbers_are_refused_in_a_sentence(place: tuple[Any, ...], value: Any) -> None:
    values = deepcopy(FULL)
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        text = yaml.safe_dump(values)
        parse_settings(text, Recipe, "r.yaml")
    except UpernetError as error:
        lines = str(error).split("\n  ")
        assert all(line.startswith("r.yaml:") and len(line) < 400 for line in lines)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("training.workers", 1_000_000, "training.workers: should be less than or equal to 256"),
        ("training.stages", [], "training.stages: there is no stage, so nothing would be trained; list at least one"),
        ("training.stages.0.sources", [], "the stage has no source to sample; name at least one"),
        ("training.stages.0.iterations", 1e30, "training.stages.0.iterations: should be a valid integer"),
        ("training.stages.0.iterations", True, "training.stages.0.iterations: should be a valid integer"),
        ("training.stages.0.learning_rate", float("nan"), "learning_rate: should be a finite number"),
        ("training.stages.0.weight_decay", float("inf"), "weight_decay: should be a finite number"),
        ("calibration.target_precision", {"object": float("nan")}, "target_precision.object: should be a finite"),
        ("loss.weights", {"object": float("nan")}, "loss.weights.object: should be a finite number"),
        ("sources.a.augmentation.scale", [0.5, float("inf")], "scale.1: should be a finite number"),
        ("sources.a.augmentation.crop", [10**6, 512], "crop.0: should be less than or equal to 16384"),
        ("sources.a.augmentation", {"crop": [8192, 8192]}, "a batch of 8 crops of 8192 x 8192 pixels is more than any"),
        ("sources.a.test_resize.short_side", 10**6, "short_side: should be less than or equal to 16384"),
        ("sources.a.batch_size", 10**6, "batch_size: should be less than or equal to 65536"),
        ("model.decoder_channels", 10**6, "decoder_channels: should be less than or equal to 2048"),
        ("taxonomy", "x" * 5000, "taxonomy: should have at most 4096 characters"),
    ],
)  # fmt: skip
def test_limits(place: str, value: Any, problem: str) -> None:
    values = deepcopy(FULL)
    *keys, last = place.split(".")
    inner: Any = values
    for key in keys:
        inner = inner[int(key) if key.isdecimal() else key]
    inner[last] = value
    with pytest.raises(UpernetError) as caught:
        check_settings(values, Recipe, "recipe")
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_network_without_end_is_not_built() -> None:
    values = {"channels": 4096, "depths": (4096,) * 4, "groups": (1,) * 4}
    with pytest.raises(UpernetError, match=r"the network would have .* parameters"):
        check_settings(values, InternImageSpec, "options")


def test_a_learning_rate_by_another_name(tmp_path: Path) -> None:
    text = (RECIPES / "camvid.yaml").read_text().replace("      learning_rate:", "      lr:", 1)
    with pytest.raises(UpernetError) as caught:
        parse_settings(text, Recipe, "r.yaml")
    assert str(caught.value).endswith("training.stages.0.lr: unknown key (did you mean 'learning_rate'?).")
    assert "\n" not in str(caught.value)
