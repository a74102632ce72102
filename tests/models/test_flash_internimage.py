"""Tests of upernet.models.flash_internimage against an independent plain implementation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.official_network import relative_error
from helpers.plain_flash_internimage import VARIANTS, PlainFlash, Published, published_shapes
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models.backbones import build_backbone, recognize_backbone
from upernet.models.flash_internimage import DCNv4, FlashInternImage

NARROW: dict[str, Any] = {"channels": 16, "depths": (1, 2, 2, 1), "groups": (1, 2, 4, 8)}


def narrow(variant: str) -> tuple[FlashInternImage, PlainFlash, dict[str, Tensor]]:
    """Return a narrow network of each implementation with the same random weights, in float64."""
    published = replace(VARIANTS[variant], **NARROW)
    generator = torch.Generator().manual_seed(3)
    tensors = {name: value(name, shape, generator) for name, shape in published_shapes(published).items()}
    backbone = build_backbone(f"flash_internimage_{variant}", options=NARROW)
    assert isinstance(backbone, FlashInternImage)
    backbone.double().load_state_dict(tensors)
    return backbone.eval(), PlainFlash(tensors, published.plain()), tensors


def value(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random weights: offsets of half a pixel, masks of any sign, and norms and factors about one."""
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if "offset_mask.weight" in name:
        noise = 0.5 * noise
    if "gamma" in name or ("norm" in name and name.endswith("weight")):
        return 1 + 0.1 * noise
    return 0.3 * noise if len(shape) == 1 else noise / (noise[0].numel() ** 0.5)


@pytest.mark.parametrize("size", [(64, 96), (61, 75)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_those_of_the_plain_implementation(variant: str, size: tuple[int, int]) -> None:
    backbone, plain, _ = narrow(variant)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        expected = plain.features(images)
        exact, fast = backbone(images), backbone.float()(images.float())
    assert [tuple(feature.shape) for feature in exact] == [tuple(feature.shape) for feature in expected]
    for reference, double, single in zip(expected, exact, fast, strict=True):
        assert relative_error(double, reference) < 1e-9
        assert relative_error(single, reference) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["t", "l"])
def test_gradients_are_those_of_the_plain_implementation(variant: str) -> None:
    backbone, plain, tensors = narrow(variant)
    images = torch.randn(1, 3, 45, 38, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(features: list[Tensor]) -> Tensor:
        return torch.stack([(feature * feature.detach().cos()).mean() for feature in features]).sum()

    loss(backbone.train()(images)).backward()
    for tensor in tensors.values():
        tensor.requires_grad_()
    loss(plain.features(images)).backward()
    for name, parameter in backbone.named_parameters():
        expected = tensors[name].grad
        assert parameter.grad is not None and expected is not None, name
        scale = max(float(expected.abs().max()), 1e-8)
        assert float((parameter.grad - expected).abs().max()) < 1e-8 * scale + 1e-12, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_those_of_the_published_source(variant: str) -> None:
    with torch.device("meta"):
        state = build_backbone(f"flash_internimage_{variant}").state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes(VARIANTS[variant])
    assert recognize_backbone(state) == f"flash_internimage_{variant}"


@pytest.mark.parametrize(("variant", "millions"), [("t", 30), ("s", 50), ("b", 97), ("l", 223)])
def test_the_classifiers_are_as_large_as_published(variant: str, millions: int) -> None:
    """The published sizes include a classifier for ImageNet: a 1x1 convolution and its norm, and a linear layer."""
    with torch.device("meta"):
        backbone = build_backbone(f"flash_internimage_{variant}")
        c5 = 8 * VARIANTS[variant].channels
        width = 3 * c5 // 2
        head = nn.Sequential(nn.Conv2d(c5, width, 1, bias=False), nn.BatchNorm2d(width), nn.Linear(width, 1000))
    parameters = sum(parameter.numel() for parameter in [*backbone.parameters(), *head.parameters()])
    assert round(parameters / 1e6) == millions


def test_options_change_a_variant() -> None:
    options = NARROW | {"dw_kernel_size": 5, "dcn_output_bias": True, "layer_scale": None, "post_norm": True}
    backbone = build_backbone("flash_internimage_t", options=options).eval()
    names = backbone.state_dict().keys()
    assert "levels.0.blocks.0.dcn.output_proj.bias" in names
    assert not any("gamma" in name or "fc2.bias" in name or name.startswith("levels.0.norm") for name in names)
    with torch.inference_mode():
        features = backbone(torch.randn(1, 3, 61, 75))
    assert [tuple(f.shape[1:]) for f in features] == [(16, 16, 19), (32, 8, 10), (64, 4, 5), (128, 2, 3)]


def test_a_new_operator_returns_its_bias_until_the_masks_have_learned() -> None:
    module = DCNv4(8, 2)
    module.reset_parameters()
    nn.init.ones_(module.output_proj.bias)
    out = module(torch.randn(1, 4, 5, 8))
    assert torch.equal(out, torch.ones_like(out))
    out.square().mean().backward()
    assert module.offset_mask.weight.grad is not None and module.offset_mask.weight.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"center_feature_scale": True}, "backbone_options of flash_internimage_t: center_feature_scale"),
        ({"dw_kernel_size": 0}, "backbone_options of flash_internimage_t: dw_kernel_size"),
        ({"groups": (3, 6, 12, 24)}, "cannot be divided"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UpernetError, match=message):
        build_backbone("flash_internimage_t", options=options)


def test_a_backbone_of_another_depth_has_no_name() -> None:
    shapes = published_shapes(Published(64, (4, 4, 19, 4), (4, 8, 16, 32)))
    assert recognize_backbone({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}) is None
