"""Tests of descriptions in checkpoints that no version has written."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.checkpoints.formats import NATIVE, NamedWeights
from upernet.checkpoints.native import read_info
from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.taxonomy import load_taxonomy

CONTENT: dict[str, Any] = {
    "format": 1,
    "model": load_recipe("camvid").model.model_dump(mode="json"),
    "taxonomy": load_taxonomy("camvid").to_dict(),
    "card": {"name": "x", "description": "d", "short_side": 100, "thresholds": {"object": 0.5}, "x": {"y": [1]}},
}
VALUES: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1e308,
        float("nan"),
        float("inf"),
        10**30,
        10**4000,
        "",
        "x" * 500,
        "\0",
        "\ud800",
        "\x1b[31m",
    ),
    *([], {}, [[]], {"a": [1]}, ["a", "a"], {"name": "x", "color": 5}, "camvid"),
]


def fault_of(text: str) -> str | None:
    """Return the error for a file with the description `text`; None if it is read, and can be written again."""
    try:
        info = read_info(NamedWeights(Path("f.safetensors"), NATIVE, {}, {NATIVE: text}))
    except UpernetError as error:
        return str(error)
    json.dumps([info.spec.model_dump(mode="json"), info.taxonomy.to_dict(), info.card.to_dict()])
    return None


@settings(deadline=None, max_examples=200)
@given(random=st.randoms(use_true_random=False))
def test_any_change_is_read_or_refused(random: Random) -> None:
    content: Any = deepcopy(CONTENT)
    inner = content
    while True:
        key = random.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[key], dict | list) or not inner[key] or random.random() < 0.2:
            break
        inner = inner[key]
    inner[key] = random.choice(VALUES)
    fault = fault_of(json.dumps(content))
    assert fault is None or (fault.startswith("f.safetensors: ") and fault.isprintable() and len(fault) < 700)


@pytest.mark.parametrize("depth", [100, 300, 5000])
def test_a_card_of_nested_lists(depth: int) -> None:
    fault = fault_of(json.dumps(CONTENT).replace('{"y": [1]}', "[" * depth + "]" * depth))
    assert (fault is None) == (depth == 100)
    assert fault is None or fault.startswith("f.safetensors: its ")


def test_the_fault_is_named() -> None:
    model = CONTENT["model"] | {"decodr_channels": 1}
    assert fault_of(json.dumps(CONTENT | {"model": model})) == (
        "f.safetensors: its description of the model is not valid (model: decodr_channels: unknown key (did you mean "
        "'decoder_channels'?))."
    )
