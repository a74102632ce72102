"""A network prepared for inference beside the network itself."""

from __future__ import annotations

import pytest
import torch
from official_network import needs_reference, relative_error, tiny_model
from torch import nn

import upernet
from upernet.errors import UpernetError
from upernet.models import UPerNet, prepare_for_inference
from upernet.ops import bfloat16_unavailable
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

FOLDED = ["tf_efficientnet_lite0", "resnet18", "resnet50", "efficientnet_b0"]
"""All of whose batch norms follow a convolution."""
OTHERS = [
    "resnet50c",
    "regnety_002",
    "resnetv2_50",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
]


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


@pytest.mark.parametrize("backbone", [*FOLDED, *OTHERS])
def test_same_logits_with_any_backbone(backbone: str) -> None:
    model = with_statistics(UPerNet(ModelSpec(backbone=backbone, decoder_channels=16), load_taxonomy("everyday")))
    prepared = assert_computes_the_same(model)
    if backbone in FOLDED:
        assert norms(model) > 0 and norms(prepared) == 0
    shared = {id(parameter) for parameter in model.parameters()} & {
        id(parameter) for parameter in prepared.parameters()
    }
    assert id(model.heads["object"].classifier.weight) in shared


@pytest.mark.parametrize("name", ["everyday", "camvid", "unified_resnet50_broden"])
def test_same_logits_of_recipes(name: str) -> None:
    prepared = assert_computes_the_same(with_statistics(upernet.create_model(name)))
    assert norms(prepared) == 0


def test_a_network_without_batch_norms_in_its_backbone_stays_itself() -> None:
    options = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}
    spec = ModelSpec(backbone="internimage_t", backbone_options=options, decoder_channels=16)
    model = UPerNet(spec, load_taxonomy("everyday"))
    assert prepare_for_inference(model) is model


def test_a_norm_of_batches_alone_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(prepare_for_inference(network)(images), network(images))


needs_bfloat16 = pytest.mark.skipif(bool(bfloat16_unavailable()), reason=f"bfloat16: {bfloat16_unavailable()}")


@needs_reference
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
    with torch.inference_mode():
        expected, found = model(images), prepare_for_inference(model, "bf16")(images)
    for level in expected:
        assert 0 < relative_error(found[level], expected[level]) < 0.1, level


def test_bfloat16_is_refused_where_it_would_not_be_faster() -> None:
    with torch.device("meta"):
        model = upernet.create_model("everyday")
    with pytest.raises(UpernetError, match="for CPUs, not meta"):
        prepare_for_inference(model, "bf16")


def test_layers_that_are_not_called_in_order_stay() -> None:
    class Sum(nn.ModuleList):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self[0](images) + self[1](images)

    torch.manual_seed(0)
    odd = nn.Sequential(Sum([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]))
    with_norm = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))
    shared = nn.Conv2d(3, 3, 1)
    twice = nn.Sequential(nn.Sequential(shared, nn.BatchNorm2d(3)), nn.Sequential(shared, nn.BatchNorm2d(3)))
    images = torch.randn(2, 3, 8, 8)
    for network in (odd, with_norm, twice):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.get_buffer("running_mean"), -0.5, 0.5)
        network.eval()
        torch.testing.assert_close(prepare_for_inference(network)(images), network(images))


def test_an_unknown_precision() -> None:
    with pytest.raises(UpernetError, match="choose fp32 or bf16"):
        upernet.load("everyday", precision="fp16")  # pyright: ignore
