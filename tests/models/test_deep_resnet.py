"""Tests of upernet.models.deep_resnet, which computes what timm's ResNets with a deep stem do."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from upernet.models import prepare_for_inference
from upernet.models.backbones import as_backbone, build_backbone, recognize_backbone
from upernet.models.deep_resnet import VARIANTS, DeepResNet

STEM = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3", "bn1": "bn3"}
"""timm's names of the stem -> ours."""
TIMM = {
    "resnet50_deep": ("resnet50s", {}),
    "resnet101_deep": ("resnet101s", {}),
    "resnext101_deep": ("resnext101_32x4d", {"stem_width": 64, "stem_type": "deep"}),
}


def own_name(name: str) -> str:
    module, _, tensor = name.rpartition(".")
    return f"{STEM.get(module, module)}.{tensor}"


def random_norms(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with batch norms that do something."""
    state = network.state_dict()
    return {key: torch.rand_like(value) + 0.5 if "bn" in key or "downsample.1" in key else value
            for key, value in state.items() if value.ndim}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_features_are_those_of_timm(name: str) -> None:
    torch.manual_seed(0)
    theirs, options = TIMM[name]
    reference = timm.create_model(theirs, features_only=True, out_indices=(1, 2, 3, 4), **options).eval()
    state = random_norms(reference)
    reference.load_state_dict(state, strict=False)
    backbone = build_backbone(name).eval()
    missing, unexpected = backbone.load_state_dict({own_name(k): v for k, v in state.items()}, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    images = torch.randn(1, 3, 77, 110)
    with torch.inference_mode():
        expected = reference(images)
        for network in (backbone, prepare_for_inference(backbone)):
            for feature, other in zip(network(images), expected, strict=True):
                torch.testing.assert_close(feature, other, rtol=1e-3, atol=1e-3 * float(other.std()))


@pytest.mark.parametrize("name", VARIANTS)
def test_description_and_recognition(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
        features = backbone(torch.empty(1, 3, 75, 101))
    info = as_backbone(backbone).feature_info
    assert info.channels() == [feature.shape[1] for feature in features] == [256, 512, 1024, 2048]
    assert [feature.shape[2:] for feature in features] == [(19, 26), (10, 13), (5, 7), (3, 4)]
    assert recognize_backbone(backbone.state_dict()) == name


def test_layers_are_numbered_from_the_stem() -> None:
    backbone = build_backbone("resnet50_deep")
    assert isinstance(backbone, DeepResNet)
    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert {layers[f"{name}.weight"] for name in ("conv1", "bn2", "conv3")} == {0}
    assert layers["layer1.0.conv1.weight"] == 1 and layers["layer2.0.downsample.0.weight"] == 4
    assert layers["layer4.2.bn3.bias"] == 16 == backbone.num_layers - 1
    assert sorted(set(layers.values())) == list(range(backbone.num_layers))


@pytest.mark.slow
def test_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet50_deep").train()
    assert isinstance(backbone, DeepResNet)
    images, gradients = torch.randn(2, 3, 64, 64), list[Tensor]()
    for checkpointed in (False, True):
        backbone.set_grad_checkpointing(checkpointed)
        backbone.zero_grad()
        backbone(images)[-1].square().mean().backward()
        gradients.append(backbone.conv1.weight.grad.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients)


def test_every_norm_is_folded() -> None:
    backbone = build_backbone("resnet50_deep").eval()
    prepared = prepare_for_inference(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
    with torch.inference_mode():
        images = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(prepared(images)[0], backbone(images)[0], rtol=1e-3, atol=1e-3)
