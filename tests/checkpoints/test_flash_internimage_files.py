"""Tests of published FlashInternImage files, by the names and shapes of the published source code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.official_network import official_name, relative_error
from helpers.plain_flash_internimage import VARIANTS, PlainFlash, published_shapes
from torch import Tensor

import upernet
from upernet.checkpoints import load_backbone_weights, load_checkpoint
from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.formats import NamedWeights, mmsegmentation
from upernet.checkpoints.identify import identify_by_tensors
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.models.backbones import build_backbone
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

NARROW = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}


def decoder(spec: ModelSpec, taxonomy: str) -> dict[str, Tensor]:
    """Return the tensors of a new decoder under their published names."""
    state = UPerNet(spec, load_taxonomy(taxonomy)).state_dict()
    return {official_name(key): value for key, value in state.items() if not key.startswith("backbone.")}


def narrow_backbone(variant: str, padded: bool) -> dict[str, Tensor]:
    shapes = published_shapes(replace(VARIANTS[variant], **NARROW), padded)
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_published_tensor_has_one_place(variant: str, padded: bool) -> None:
    spec = ModelSpec(backbone=f"flash_internimage_{variant}", head_channels=0)
    with torch.device("meta"):
        backbone = {f"backbone.{k}": torch.empty(s) for k, s in published_shapes(VARIANTS[variant], padded).items()}
        theirs = backbone | decoder(spec, "ade20k150")
        ours = UPerNet(spec, load_taxonomy("ade20k150")).state_dict()
    assert mmsegmentation.recognizes(theirs) and mmsegmentation.recognizes(backbone)
    translated = mmsegmentation.translate(theirs)
    assert len(translated) == len(theirs)
    assert {key: value.shape for key, value in translated.items()} == {key: value.shape for key, value in ours.items()}
    assert backbone_of(translated) == spec.backbone

    info = identify_by_tensors(NamedWeights(Path("file.pth"), mmsegmentation.NAME, translated, {}))
    assert info.name == f"upernet_flash_internimage_{variant}_{640 if variant == 'l' else 512}_160k_ade20k"
    assert info.card.research_only


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_gives_the_features_of_the_plain_implementation(variant: str, padded: bool, tmp_path: Path) -> None:
    spec = {"backbone": f"flash_internimage_{variant}", "backbone_options": NARROW, "head_channels": 0}
    spec |= {"decoder_channels": 24, "auxiliary_channels": 12}
    recipe = {"description": "d", "taxonomy": "camvid", "model": spec}
    (tmp_path / "tiny.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    backbone = narrow_backbone(variant, padded)
    state = {f"backbone.{key}": value for key, value in backbone.items()}
    state |= decoder(ModelSpec.model_validate(spec), "camvid")
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "tiny.pth")

    model = upernet.load_model(str(tmp_path / "tiny.yaml"), checkpoint=tmp_path / "tiny.pth")
    plain = PlainFlash(backbone, replace(VARIANTS[variant], **NARROW).plain())
    for size in ((64, 96), (61, 75)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            for feature, expected in zip(model.backbone(images), plain.features(images), strict=True):
                assert relative_error(feature, expected) < 1e-4


def test_an_imagenet_backbone_starts_training(tmp_path: Path) -> None:
    tensors = narrow_backbone("s", padded=False)
    classifier = {"conv_head.0.weight": torch.zeros(192, 128, 1, 1), "head.weight": torch.zeros(1000, 192)}
    torch.save({"model": tensors | classifier}, tmp_path / "imagenet.pth")
    backbone = build_backbone("flash_internimage_s", options=NARROW)
    load_backbone_weights(backbone, "flash_internimage_s", str(tmp_path / "imagenet.pth"))
    state = backbone.state_dict()
    weight = state["levels.0.blocks.0.dcn.offset_mask.weight"]
    assert torch.equal(weight[:27], tensors["levels.0.blocks.0.dcn.offset_mask.weight"]) and not weight[27:].any()
    with pytest.raises(UpernetError, match="has no classes"):
        load_checkpoint(tmp_path / "imagenet.pth")


def test_another_decoder_is_refused(tmp_path: Path) -> None:
    """Mask2Former with the same backbone is published, too."""
    state = {f"backbone.{key}": value for key, value in narrow_backbone("t", padded=True).items()}
    torch.save({"state_dict": state | {"decode_head.query_feat.weight": torch.zeros(10, 8)}}, tmp_path / "other.pth")
    with pytest.raises(UpernetError, match="not of a network that upernet can load"):
        load_checkpoint(tmp_path / "other.pth")
