"""Tests of upernet.models.packed_block and upernet.models.int8: prepared networks against the networks themselves."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from helpers.official_network import relative_error
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models import Precision, UPerNet, prepare_for_inference
from upernet.models.decoder import Conv3x3BnRelu
from upernet.models.int8 import Replacement
from upernet.models.internimage import DCNv3
from upernet.models.internimage_blocks import DeformableConvolution
from upernet.models.packed_block import PackedBlock
from upernet.models.packed_conv3x3 import PackedConv3x3BnRelu
from upernet.ops import bfloat16_unavailable, int8_unavailable, recorded_decisions
from upernet.ops.runtime.matmul import MAX_INT8
from upernet.recipe import ModelSpec
from upernet.taxonomy import load_taxonomy

pytestmark = pytest.mark.skipif(bool(int8_unavailable()), reason=f"int8: {int8_unavailable()}")
IMAGES = torch.randn(2, 3, 96, 130, generator=torch.Generator().manual_seed(0))
COARSENESS = 127 / MAX_INT8
"""How much larger the steps of int8 weights are than those of eight bits; without VNNI, weights have seven."""
STYLES: dict[str, dict[str, object]] = {
    "t": {},
    "l": {"post_norm": True, "offset_scale": 2.0},
    "without scales": {"layer_scale": None},
    "h, without gates": {"layer_scale": None, "dw_kernel_size": 5, "res_post_norm": True},
    "h": {"layer_scale": None, "dw_kernel_size": 5, "res_post_norm": True, "center_feature_scale": True},
}
PACKED = [style for style in STYLES if style != "h"]


def network(
    style: str = "t", backbone: str = "internimage_t", channels: int = 16, decoder_channels: int = 64
) -> UPerNet:
    """Return a small network whose offsets, masks, norms and scales differ from those of a new one."""
    torch.manual_seed(0)
    options = {"channels": channels, "depths": (1, 2, 2, 1), "groups": (1, 2, 4, 8), **STYLES[style]}
    spec = ModelSpec(backbone=backbone, backbone_options=options, decoder_channels=decoder_channels)
    model = UPerNet(spec, load_taxonomy("camvid")).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, DeformableConvolution):
                for name in module.sampling:  # the masks of DCNv4 have no softmax
                    std = 0.2 if isinstance(module, DCNv3) else 0.02
                    module.get_submodule(name).get_parameter("weight").normal_(std=std)
            if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
        for name, parameter in model.named_parameters():
            if ".gamma" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def blocks(model: nn.Module) -> int:
    return sum(isinstance(module, PackedBlock) for module in model.modules())


def mean_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.std())


def backbone_features(model: UPerNet) -> list[Tensor]:
    with torch.inference_mode():
        return model.backbone(IMAGES)


@pytest.mark.parametrize("style", PACKED)
def test_packed_blocks_compute_the_same(style: str) -> None:
    model = network(style)
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_for_inference(model)
    assert blocks(prepared) == 6 and blocks(model) == 0
    for found, expected in zip(backbone_features(prepared), backbone_features(model), strict=True):
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert relative_error(found, expected) < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_packed_convolutions_compute_the_same() -> None:
    model = network()
    prepared = prepare_for_inference(model)
    assert sum(isinstance(module, PackedConv3x3BnRelu) for module in prepared.modules()) == 7
    with torch.inference_mode():
        for size in [(1, 1), (33, 40), (200, 96)]:
            images = torch.randn(1, 3, *size)
            assert relative_error(prepared(images)["object"], model(images)["object"]) < 1e-3


def test_narrow_convolutions_stay_as_they_are() -> None:
    prepared = prepare_for_inference(network(decoder_channels=32))
    assert blocks(prepared) == 6
    assert prepared.fusion is not None and type(prepared.fusion.conv) is Conv3x3BnRelu


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_packed_weights_replace_the_weights_of_layers(precision: Precision) -> None:
    if precision == "bf16" and (fault := bfloat16_unavailable()):
        pytest.skip(fault)
    model = network()
    replaced: tuple[type[nn.Module], ...] = (nn.Linear, Conv3x3BnRelu) if precision == "fp32" else (nn.Linear,)
    weights = [
        weakref.ref(parameter)
        for layer in model.modules()
        if isinstance(layer, replaced)
        for parameter in layer.parameters()
        if parameter.dim() > 1
    ]
    prepared = prepare_for_inference(model, precision, [IMAGES])
    del model
    gc.collect()
    assert len(weights) == 6 * 6 + (7 if precision == "fp32" else 0)
    assert not any(weight() is not None for weight in weights)
    assert blocks(prepared) == 6


@pytest.mark.skipif(bool(bfloat16_unavailable()), reason=f"bfloat16: {bfloat16_unavailable()}")
@pytest.mark.parametrize("style", PACKED)
def test_packed_blocks_in_bfloat16(style: str) -> None:
    model = network(style)
    prepared = prepare_for_inference(model, "bf16")
    assert blocks(prepared) == 6
    for found, expected in zip(backbone_features(prepared), backbone_features(model), strict=True):
        assert found.dtype == torch.float32 and 1e-4 < mean_error(found, expected) < 0.05


@pytest.mark.parametrize("style", STYLES)
def test_int8_is_near(style: str) -> None:
    model = network(style)
    prepared = prepare_for_inference(model, "int8", [IMAGES])
    for found, expected in zip(backbone_features(prepared), backbone_features(model), strict=True):
        assert found.dtype == torch.float32 and 1e-4 < mean_error(found, expected) < 0.15 * COARSENESS
    with torch.inference_mode():
        assert prepared(IMAGES)["object"].shape == model(IMAGES)["object"].shape


def test_all_products_of_internimage_and_the_decoder_are_in_int8() -> None:
    prepared = prepare_for_inference(network(), "int8", [IMAGES])
    with torch.inference_mode(), recorded_decisions() as decisions:
        prepared(IMAGES)
    kernels = {(each.operator, each.kernel) for each in decisions}
    assert {(name, "packed") for name in ("linear", "dcnv3", "mlp", "upsample_conv3x3")} <= kernels
    others = {operator for operator, kernel in kernels if kernel != "packed"}
    assert others == {"linear"}  # the classifier


@pytest.mark.parametrize(
    ("backbone", "replaced"), [("flash_internimage_t", 6 * 3 + 6), ("resnet18", 0), ("tf_efficientnet_lite0", 0)]
)
def test_int8_of_other_backbones(backbone: str, replaced: int) -> None:
    if backbone == "flash_internimage_t":
        model = network(backbone=backbone)
    else:
        torch.manual_seed(0)
        model = UPerNet(ModelSpec(backbone=backbone, decoder_channels=32), load_taxonomy("camvid")).eval()
    prepared = prepare_for_inference(model, "int8", [IMAGES])
    assert sum(isinstance(module, Replacement) for module in prepared.backbone.modules()) == replaced
    assert (
        sum(isinstance(module, Replacement) for module in prepared.modules()) == replaced + 9
    )  # of the decoder and the head
    with torch.inference_mode():
        found, expected = prepared(IMAGES)["object"], model(IMAGES)["object"]
    assert mean_error(found, expected) < 0.2 * COARSENESS


def test_channels_that_are_not_whole_vectors_stay_as_they_are() -> None:
    model = network(channels=24)
    assert prepare_for_inference(model) is model
    spec = ModelSpec(backbone="tf_efficientnet_lite0", decoder_channels=24)
    narrow = UPerNet(spec, load_taxonomy("camvid")).eval()
    prepared = prepare_for_inference(narrow, "int8", [IMAGES])
    assert not any(isinstance(module, Replacement) for module in prepared.modules())


def test_a_prepared_network_runs_images_of_any_size() -> None:
    model = network()
    prepared = prepare_for_inference(model, "int8", [IMAGES])
    with torch.inference_mode():
        for size in [(1, 1), (33, 40), (200, 96)]:
            images = torch.randn(1, 3, *size)
            assert prepared(images)["object"].shape == model(images)["object"].shape


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_prepared_network_can_be_copied(precision: Precision) -> None:
    prepared = prepare_for_inference(network(), precision, [IMAGES])
    copied = copy.deepcopy(prepared)
    with torch.inference_mode():
        assert torch.equal(copied(IMAGES)["object"], prepared(IMAGES)["object"])


def test_a_packed_network_can_be_pickled() -> None:
    prepared = prepare_for_inference(network())
    again = pickle.loads(pickle.dumps(prepared))
    with torch.inference_mode():
        assert torch.equal(again(IMAGES)["object"], prepared(IMAGES)["object"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_prepared_network_runs_where_gradients_are_recorded(precision: Precision) -> None:
    if precision == "bf16" and (fault := bfloat16_unavailable()):
        pytest.skip(fault)
    prepared = prepare_for_inference(network(), precision, [IMAGES])
    with torch.inference_mode():
        expected = prepared(IMAGES)["object"]
    torch.testing.assert_close(prepared(IMAGES)["object"].detach(), expected.clone(), rtol=0.1, atol=0.1)


def test_int8_needs_images() -> None:
    with pytest.raises(UpernetError, match="int8 needs photos"):
        prepare_for_inference(network(), "int8")


def test_int8_is_for_cpus() -> None:
    with torch.device("meta"):
        model = network()
    with pytest.raises(UpernetError, match="for CPUs, not meta"):
        prepare_for_inference(model, "int8", [IMAGES])
