"""Tests of upernet.models.fold: a prepared network against the network itself."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers.official_network import relative_error, tiny_model
from helpers.shared import needs_reference
from torch import nn

import upernet
from upernet.errors import UpernetError
from upernet.models import UPerNet, prepare_for_inference
from upernet.models.backbones import as_backbone, build_backbone
from upernet.ops import bfloat16_unavailable
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

FOLDED = [
    "tf_efficientnet_lite0",
    "resnet18",
    "resnet50",
    "resnet50c",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "regnety_002",
    "hrnet_w18_small",
    "ghostnet_100",
    "xception41",
]
"""Backbones all of whose batch norms follow a convolution."""
OTHERS = {
    "resnetv2_50": 16,
    "densenet121": 62,
    "repvgg_a0": 17,
    "mixnet_s": 34,
    "convnext_atto": 0,
    "swin_tiny_patch4_window7_224": 0,
}
"""Backbones with the number of their batch norms that follow something else: an addition, a concatenation, nothing."""


def with_statistics(model: UPerNet) -> UPerNet:
    """No batch norm is the identity, and float64 leaves no room for errors."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_mean"), -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    return model.double().eval()


def norms(model: UPerNet) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())


def assert_computes_the_same(model: UPerNet) -> UPerNet:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = prepare_for_inference(model)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = model(images), prepared(images)
    for level, logits in expected.items():
        torch.testing.assert_close(found[level], logits, rtol=1e-8, atol=1e-8 * float(logits.abs().max()))
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return prepared


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [*FOLDED, *OTHERS])
def test_same_logits_with_any_backbone(backbone: str) -> None:
    model = with_statistics(UPerNet(ModelSpec(backbone=backbone, decoder_channels=16), load_taxonomy("everyday")))
    prepared = assert_computes_the_same(model)
    assert norms(prepared) == OTHERS.get(backbone, 0)
    assert norms(model) > norms(prepared) or backbone in ("convnext_atto", "swin_tiny_patch4_window7_224")
    shared = {id(parameter) for parameter in model.parameters()} & {
        id(parameter) for parameter in prepared.parameters()
    }
    assert id(model.heads["object"].classifier.weight) in shared


@pytest.mark.slow
@pytest.mark.parametrize("name", ["everyday", "camvid", "upp_resnet50_broden", "upp_resnext101_upernet_lite"])
def test_same_logits_of_recipes(name: str) -> None:
    prepared = assert_computes_the_same(with_statistics(upernet.create_model(name)))
    assert norms(prepared) == 0


def test_a_network_with_nothing_to_fold_or_pack_stays_itself() -> None:
    spec = ModelSpec(backbone="swin_tiny_patch4_window7_224", decoder_channels=16)
    model = UPerNet(spec, load_taxonomy("everyday"))
    assert prepare_for_inference(model) is model


needs_bfloat16 = pytest.mark.skipif(bool(bfloat16_unavailable()), reason=f"bfloat16: {bfloat16_unavailable()}")


@needs_reference
@pytest.mark.golden
@needs_bfloat16
@pytest.mark.parametrize("style", ["t", "l", "h"])
def test_bfloat16_is_near_and_leaves_the_network_alone(style: str) -> None:
    model = tiny_model(style).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 96, 130)
    prepared = prepare_for_inference(model, "bf16")
    with torch.inference_mode():
        expected, found = model(images)["object"], prepared(images)["object"]
    assert found.dtype == torch.float32
    assert 1e-5 < relative_error(found, expected) < 0.1  # eight bits, a few layers one after the other
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@needs_bfloat16
def test_bfloat16_by_winograd_and_at_the_resolution_of_coarse_maps() -> None:
    torch.manual_seed(0)
    spec = ModelSpec(backbone="tf_efficientnet_lite0", decoder_channels=64)
    model = with_statistics(UPerNet(spec, load_taxonomy("everyday"))).float()
    images = torch.randn(1, 3, 97, 160)
    prepared = prepare_for_inference(model, "bf16")
    prepared.backbone = model.backbone
    with torch.inference_mode():
        expected, found = model(images), prepared(images)
    for level in expected:
        assert 0 < relative_error(found[level], expected[level]) < 0.1, level


@pytest.mark.slow
@needs_bfloat16
@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "resnet50_deep"])
def test_other_backbones_compute_in_bfloat16(backbone: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(UPerNet(ModelSpec(backbone=backbone, decoder_channels=16), load_taxonomy("camvid"))).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(1, 3, 97, 128)
    prepared = prepare_for_inference(model, "bf16")
    inside: list[torch.dtype] = []
    for module in prepared.backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, arguments, output: inside.append(output.dtype))
    with torch.inference_mode():
        expected, found = model.backbone(images), prepared.backbone(images)
    assert inside and set(inside) == {torch.bfloat16}
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and 1e-5 < relative_error(a, b) < 0.2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bfloat16_is_refused_where_it_would_not_be_faster() -> None:
    with torch.device("meta"):
        model = upernet.create_model("everyday")
    with pytest.raises(UpernetError, match="for CPUs, not meta"):
        prepare_for_inference(model, "bf16")


def test_nothing_is_folded_in_a_network_that_is_no_backbone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    assert prepare_for_inference(network) is network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "swin_tiny_patch4_window7_224"])
def test_a_timm_backbone_is_still_copied_and_pickled(name: str) -> None:
    backbone = build_backbone(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = backbone(images)
        for copied in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
            assert type(copied) is type(backbone)
            assert as_backbone(copied).num_layers == as_backbone(backbone).num_layers
            for a, b in zip(copied(images), expected, strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_timms_modules_are_folded_whatever_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._efficientnet_blocks as blocks
    from timm.models import resnet

    for kind in (blocks.InvertedResidual, blocks.DepthwiseSeparableConv, resnet.BasicBlock):
        monkeypatch.setattr(kind, "__module__", "timm.a_future_place")
    for backbone in ("efficientnet_b0", "resnet18"):
        model = with_statistics(UPerNet(ModelSpec(backbone=backbone, decoder_channels=16), load_taxonomy("camvid")))
        assert norms(assert_computes_the_same(model)) == 0


def test_an_unknown_precision() -> None:
    with pytest.raises(UpernetError, match="choose fp32, bf16 or int8"):
        upernet.load("everyday", precision="fp16")  # pyright: ignore
