"""Tests of upernet.inference.published and of `Passes` in upernet.decoding: the published testing of a photo."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.painted_network import DOG, PERSON, TAXONOMY, PaintedNetwork, four_quarters, paint
from helpers.shared import REFERENCE, needs_reference
from helpers.upp_network import HALVES, official_half, save_pair
from hypothesis import given
from hypothesis import strategies as st

import upernet
from upernet.decoding import Passes, label_maps
from upernet.errors import UpernetError
from upernet.inference import Parser
from upernet.inference.published import input_sizes
from upernet.models import UPerNet
from upernet.recipe import PublishedTesting

TESTING = PublishedTesting(short_sides=(64, 96), long_side=200, multiple=32)
UPP = PublishedTesting(short_sides=(300, 400, 500, 600), long_side=1000, multiple=8)


def parser(network: PaintedNetwork | None = None, **options: Any) -> Parser:
    card = {"name": "painted", "published_testing": TESTING.model_dump(mode="json")}
    return Parser(cast(UPerNet, network or PaintedNetwork()), card, scales="published", **options)


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((400, 600), [(304, 456), (400, 600), (504, 752), (600, 904)]),
        ((600, 400), [(456, 304), (600, 400), (752, 504), (904, 600)]),
        ((300, 1200), [(256, 1000), (256, 1000), (256, 1000), (256, 1000)]),
        ((1, 1), [(304, 304), (400, 400), (504, 504), (600, 600)]),
    ],
)
def test_sizes_are_rounded_down_and_stretched(photo: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert input_sizes(*photo, UPP) == expected


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_no_side_is_too_long(height: int, width: int) -> None:
    for rows, columns in input_sizes(height, width, UPP):
        assert rows % 8 == columns % 8 == 0 and 8 <= min(rows, columns) <= max(rows, columns) <= 1000


def test_labels_are_those_of_the_mean_probabilities() -> None:
    torch.manual_seed(0)
    channels = {"object": 4, "part": 6, "material": 3}
    passes = {
        level: Passes((3 * torch.randn(count, 16, 24), 3 * torch.randn(count, 23, 33)))
        for level, count in channels.items()
    }
    size, groups = (61, 90), TAXONOMY.part_groups

    def mean(level: str, which: slice = slice(None)) -> torch.Tensor:
        resized = [
            F.interpolate(logits[None, which].double(), size=size, mode="bilinear") for logits in passes[level].logits
        ]
        return torch.stack([values[0].softmax(0) for values in resized]).mean(0)

    found = label_maps(passes, size, size, groups)
    for level in ("object", "material"):
        confidence, labels = mean(level).max(0)
        np.testing.assert_array_equal(found[level][0], labels)
        np.testing.assert_allclose(found[level][1], confidence, atol=1e-5)
    parts = np.zeros(size, int)
    for group in groups:
        owned = found["object"][0] == group.owner
        parts[owned] = np.array(group.parts)[mean("part", group.channels).argmax(0)][owned]
    np.testing.assert_array_equal(found["part"][0], parts)


def test_every_level_is_read_off_the_painted_photo() -> None:
    network = PaintedNetwork()
    objects = four_quarters(64, 96)
    parse = parser(network)(paint(objects, parts=np.where(objects >= PERSON, 2, 1), materials=objects // 2))
    assert network.sizes == [(64, 96), (96, 160)]  # 96 x 144, stretched; all levels share a pass
    inside = np.zeros(objects.shape, bool)
    inside[8:24, 8:40] = inside[8:24, 56:88] = inside[40:56, 8:40] = inside[40:56, 56:88] = True
    np.testing.assert_array_equal(parse.object.labels[inside], objects[inside])
    wanted = np.where(objects == PERSON, 2, np.where(objects == DOG, 3, 0))
    np.testing.assert_array_equal(parse.part.labels[inside], wanted[inside])
    assert sum(probability for _, probability in parse.scene) == pytest.approx(1)


def test_only_asked_levels_and_their_probabilities() -> None:
    parse = parser()(paint(four_quarters()), levels=["part"], probabilities=True)
    assert parse.levels == ("part",)
    assert parse.part.probabilities.shape == (4, 64, 96)
    np.testing.assert_allclose(parse.part.probabilities.max(0), parse.part.confidence, atol=1e-3)
    assert parser()(paint(four_quarters()), levels=["scene"]).levels == ("scene",)


def test_temperatures_soften_each_pass() -> None:
    network, photo = PaintedNetwork(sharpness=0.1), paint(four_quarters())
    card = {"published_testing": TESTING, "temperatures": {"object": 4.0, "scene": 4.0}}
    soft = Parser(cast(UPerNet, network), card, scales="published")(photo)
    sharp = parser(network)(photo)
    assert soft.object.confidence.mean() < sharp.object.confidence.mean()
    assert soft.scene[0][1] < sharp.scene[0][1]


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(UpernetError, match="painted has no published scales; leave scales out"):
        Parser(cast(UPerNet, PaintedNetwork()), {"name": "painted"}, scales="published")
    with pytest.raises(UpernetError, match="leave one of the two out"):
        parser(short_side=300)
    with pytest.raises(UpernetError, match="scales 'all': give published"):
        Parser(cast(UPerNet, PaintedNetwork()), scales=cast(Any, "all"))


def test_with_one_scale_the_scene_is_read_from_the_size_of_the_model() -> None:
    network = PaintedNetwork()
    Parser(cast(UPerNet, network), {"short_side": 450, "published_testing": TESTING})(
        np.zeros((900, 1200, 3), np.uint8), levels=["scene"]
    )
    assert network.sizes == [(480, 608)]  # 450 x 600, filled up


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_a_photo_is_parsed_as_by_the_released_code(tmp_path: Path) -> None:
    with np.load(REFERENCE / "golden" / "upp_e2e_coffee.npz") as file:
        facts = {key: file[key] for key in file.files}
    factors = dict(zip(facts["scale_names"].tolist(), facts["scale_values"].tolist(), strict=True))
    states: list[dict[str, torch.Tensor]] = []
    for half in HALVES:
        state = official_half("resnet50", half)
        for key, value in state.items():
            name = f"{half}.{key}"
            bias = facts.get(f"override/{name}")
            state[key] = value * factors.get(name, 1) if bias is None else torch.from_numpy(bias)
        states.append(state)
    folder = save_pair(tmp_path / "coffee", states[0], states[1])

    parser = upernet.load(folder, scales="published")
    shutil.rmtree(folder)
    parse = parser(facts["image"])
    found = dict(parse.scene)
    scene = [found[name] for name in parser.model.taxonomy.level("scene").names]
    np.testing.assert_allclose(scene, facts["scene_prob"], atol=1e-4)
    assert (parse.object.labels != facts["object_pred"]).mean() < 1e-3
    assert (parse.material.labels != facts["material_pred"]).mean() < 1e-3
    for level, label_map in (("object", parse.object), ("material", parse.material)):
        np.testing.assert_allclose(label_map.confidence[::7, ::7], facts[f"{level}_maxprob_every7"], atol=1e-4)
    objects, parts = parse.object.labels[::4, ::4], np.zeros((100, 150), int)
    for group, local in zip(parser.model.taxonomy.part_groups, facts["part_pred_every4"], strict=True):
        parts[objects == group.owner] = np.array(group.parts)[local][objects == group.owner]
    assert (parse.part.labels[::4, ::4] != parts).mean() < 1e-3
