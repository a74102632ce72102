"""Tests of upernet.training.losses against the released code of Unified Perceptual Parsing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers.official_network import golden
from helpers.shared import needs_reference
from helpers.upp_network import HALVES, official_half, save_pair
from torch import Tensor

import upernet
from upernet.data.sample import Batch
from upernet.models import UPerNet
from upernet.taxonomy import IGNORE, Taxonomy
from upernet.training.losses import LevelLosses

WEIGHTS = {
    "encoder.conv1.weight": "backbone.conv1.weight",
    "encoder.layer4.2.conv3.weight": "backbone.layer4.2.conv3.weight",
    "decoder.ppm_last_conv.0.weight": "ppm.bottleneck.0.weight",
    "decoder.fpn_in.0.0.weight": "fpn.lateral.0.0.weight",
    "decoder.conv_fusion.0.weight": "fusion.conv.0.weight",
    "decoder.object_head.1.weight": "heads.object.classifier.weight",
    "decoder.part_head.1.weight": "heads.part.classifier.weight",
    "decoder.material_head.1.weight": "heads.material.classifier.weight",
    "decoder.scene_head.2.weight": "heads.scene.classifier.weight",
}
"""Weight of the released code whose gradient is known -> its name here."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UPerNet]:
    encoder, decoder = (official_half("resnet50", half) for half in HALVES)
    folder = save_pair(tmp_path_factory.mktemp("upp"), encoder, decoder)
    yield upernet.load_model("upp_resnet50_upernet", checkpoint=folder)
    for file in folder.iterdir():
        file.unlink()  # 300 MB


def global_parts(objects: Tensor, local: Tensor, valid: Tensor, taxonomy: Taxonomy) -> Tensor:
    """Turn parts as the released code has them (the place in the list of the object) into labels of the level."""
    parts = torch.full_like(local, IGNORE)
    for number, group in enumerate(taxonomy.part_groups):
        inside = (objects == group.owner) & valid[:, number, None, None].bool()
        parts[inside] = torch.tensor(group.parts)[local[inside]]
    return parts


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_losses_and_gradients_are_those_of_the_released_code(model: UPerNet) -> None:
    facts = golden("upp_resnet50")
    objects, local, valid, materials, scenes = (
        facts[f"loss/{name}"] for name in ("seg_object", "seg_part", "valid_part", "seg_material", "scene")
    )
    parts = global_parts(objects, local, valid, model.taxonomy)
    sources = (
        Batch(facts["loss/image"], {"object": objects, "part": parts}, {"scene": scenes}),
        Batch(facts["loss/image"], {"material": materials}),
    )
    losses = LevelLosses(model.taxonomy)
    for number, batch in enumerate(sources):
        expected = {
            key.removeprefix(f"loss/src{number}/"): float(value)
            for key, value in facts.items()
            if key.startswith(f"loss/src{number}/")
        }
        model.zero_grad()
        ratios = losses(model(batch.images, [*batch.labels, *batch.maps]), batch, {})
        values = {name: ratio.numerator / ratio.denominator for name, ratio in ratios.items()}
        total = torch.stack([losses.weight(name) * value for name, value in values.items()]).sum()
        for level in {name.partition("/")[0] for name in values}:
            own = sum(float(value.detach()) for name, value in values.items() if name.partition("/")[0] == level)
            assert own == pytest.approx(expected[level], rel=1e-5), level
        assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-5)
        total.backward()
        for theirs, ours in WEIGHTS.items():
            gradient = model.get_parameter(ours).grad
            norm = 0.0 if gradient is None else float(gradient.norm())
            assert norm == pytest.approx(expected[f"gradnorm:{theirs}"], rel=1e-3, abs=1e-6), theirs
