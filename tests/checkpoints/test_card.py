"""Tests of upernet.checkpoints.card: cards are validated when a file is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from upernet.checkpoints import ModelCard, check_card, load_checkpoint, save_checkpoint
from upernet.errors import UpernetError
from upernet.inference import Parser, load
from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

SPEC = ModelSpec(backbone="mobilenetv3_small_050", decoder_channels=8, auxiliary_channels=None)
WRONG_CARDS: list[dict[str, Any]] = [
    {"short_side": "64"},
    {"short_side": 0},
    {"short_side": 1.5},
    {"short_side": True},
    {"short_side": [64]},
    {"short_side": 10**400},
    {"short_side": 1e300},
    {"thresholds": 0.5},
    {"thresholds": ["object"]},
    {"thresholds": {"object": "high"}},
    {"thresholds": {"object": None}},
    {"thresholds": {"object": float("nan")}},
    {"thresholds": {"object": float("inf")}},
    {"thresholds": {"\x1b[31m" * 50: "high"}},
    {"class_thresholds": {"object": 0.5}},
    {"class_thresholds": {"object": {"car": "high"}}},
    {"temperatures": {"object": 0}},
    {"temperatures": {"object": float("inf")}},
    {"name": 3},
    {"name": ["x"]},
]


@pytest.fixture(scope="module")
def model() -> UPerNet:
    return UPerNet(SPEC, load_taxonomy("camvid")).eval()


def write(path: Path, model: UPerNet, card: object) -> Path:
    """Write a native checkpoint whose card nobody has checked."""
    content = {"format": 1, "model": SPEC.model_dump(mode="json"), "taxonomy": model.taxonomy.to_dict(), "card": card}
    save_file(model.state_dict(), path, metadata={"upernet": json.dumps(content)})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("card", WRONG_CARDS, ids=lambda card: ascii(card)[:40])
def test_cards_with_values_of_the_wrong_type_are_refused(model: UPerNet, card: object, tmp_path: Path) -> None:
    path = write(tmp_path / "odd.safetensors", model, card)
    for read in (load_checkpoint, load):
        with pytest.raises(
            UpernetError, match=r"odd\.safetensors: its card is not valid \((short|thresh|class_thresh|temp|name)"
        ) as caught:
            read(path)
        message = str(caught.value)
        assert "\n" not in message and "\x1b" not in message and len(message) < len(str(path)) + 250


@pytest.mark.parametrize("card", WRONG_CARDS, ids=lambda card: ascii(card)[:40])
def test_a_parser_refuses_such_a_card_too(model: UPerNet, card: dict[str, Any]) -> None:
    with pytest.raises(UpernetError, match=r"^card: not valid \((short|thresh|class_thresh|temp|name)"):
        Parser(model, card)


@pytest.mark.slow
def test_a_parser_takes_a_card_or_a_mapping(model: UPerNet) -> None:
    card = ModelCard(name="mine", short_side=64, thresholds={"object": 1})
    for given in (card, {"name": "mine", "short_side": 64, "thresholds": {"object": 1}}):
        parser = Parser(model, given)
        assert parser.card == card
        assert (parser.short_side, parser.thresholds) == (64, {"object": 1.0})
    assert Parser(model).card == ModelCard()


@pytest.mark.slow
@pytest.mark.parametrize(
    "card", [{}, {"name": "x", "short_side": None, "thresholds": None}, {"name": "x", "made_by": {"later": [1]}}]
)
def test_a_card_survives_the_round_trip_with_keys_of_later_versions(
    model: UPerNet, card: dict[str, Any], tmp_path: Path
) -> None:
    _, loaded = load_checkpoint(write(tmp_path / "in.safetensors", model, card))
    save_checkpoint(tmp_path / "out.safetensors", model, loaded)
    _, again = load_checkpoint(tmp_path / "out.safetensors")
    assert again == loaded and again.thresholds == {}
    assert set(loaded.to_dict()) == set(card)


def test_an_empty_card_is_stored_as_an_empty_mapping(model: UPerNet, tmp_path: Path) -> None:
    from upernet.checkpoints.reading import read_weights

    for card in ({}, ModelCard()):
        save_checkpoint(tmp_path / "file.safetensors", model, card)
        assert json.loads(str(read_weights(tmp_path / "file.safetensors").metadata["upernet"]))["card"] == {}


@pytest.mark.slow
def test_a_model_without_a_name_is_called_after_its_file(model: UPerNet, tmp_path: Path) -> None:
    assert load(write(tmp_path / "mine.safetensors", model, {})).card.name == "mine"
    assert load(write(tmp_path / "mine.safetensors", model, {"name": "other"})).card.name == "other"


def test_cards_of_earlier_versions_are_read():
    card = check_card({"name": None, "description": None, "short_side": 384.0, "thresholds": None, "origin": None})
    assert (card.name, card.short_side, dict(card.thresholds)) == ("", 384, {})
