"""Tests of upernet.models.efficientnet_lite, compared with timm with the same weights."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from upernet.models.backbones import Normalization, backbone_normalization, build_backbone
from upernet.models.efficientnet_lite import VARIANTS, DropPath, EfficientNetLite
from upernet.ops import use_kernel


def pair(name: str) -> tuple[EfficientNetLite, nn.Module]:
    """Both, with the same weights and statistics, so that no batch norm is the identity."""
    theirs = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_mean"), -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    ours = EfficientNetLite(name)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_same_features_and_description(name: str) -> None:
    ours, theirs = pair(name)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode(), use_kernel(linear="torch"):  # the same library as timm's, which rounds alike
        for a, b in zip(ours.eval()(images), theirs.eval()(images), strict=True):
            torch.testing.assert_close(a, b)
    for question in ("channels", "reduction", "module_name"):
        assert getattr(ours.feature_info, question)() == getattr(theirs.feature_info, question)()
    config = timm.get_pretrained_cfg(name)
    assert backbone_normalization(name) == Normalization(config.mean, config.std)
    assert [module.drop_prob for module in EfficientNetLite(name, 0.3).modules() if isinstance(module, DropPath)] == [
        getattr(module.drop_path, "drop_prob", 0.0)
        for module in timm.create_model(name, features_only=True, drop_path_rate=0.3).modules()
        if hasattr(module, "conv_pwl")
    ]


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 97), st.integers(1, 97))
def test_any_size(height: int, width: int) -> None:
    ours, theirs = pair("tf_efficientnet_lite0")
    images = torch.randn(2, 3, height, width)
    with torch.inference_mode(), use_kernel(linear="torch"):  # the same library as timm's, which rounds alike
        for a, b in zip(ours.eval()(images), theirs.eval()(images), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_same_gradients_and_statistics(checkpointed: bool) -> None:
    ours, theirs = pair("tf_efficientnet_lite0")
    ours.set_grad_checkpointing(checkpointed)
    theirs.set_grad_checkpointing(checkpointed)
    images = torch.randn(3, 3, 96, 96)
    for network in (ours, theirs):
        sum(feature.square().mean() for feature in network(images)).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-4, msg=name)
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], msg=name)


def test_same_gradients_with_frozen_statistics() -> None:
    """Such norms become part of the convolutions, whose parameters have the same gradients."""
    ours, theirs = (network.double().eval() for network in pair("tf_efficientnet_lite0"))
    images = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    for network in (ours, theirs):
        sum(feature.square().mean() for feature in network(images)).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)


def test_first_weights_are_distributed_as_timms() -> None:
    ours, theirs = EfficientNetLite("tf_efficientnet_lite0"), timm.create_model("tf_efficientnet_lite0")
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if value.numel() >= 2000 and value.ndim == 4:
            assert value.std().item() == pytest.approx(expected[name].std().item(), rel=0.15), name


def test_a_tag_of_weights_may_follow_the_name() -> None:
    assert isinstance(build_backbone("tf_efficientnet_lite0.in1k"), EfficientNetLite)


def test_drop_path_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 1, 2, 2))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert (dropped.flatten(1).amax(1) == dropped.flatten(1).amin(1)).all()
    assert DropPath(0.25).eval()(torch.ones(3)).sum() == 3


@pytest.mark.process
@pytest.mark.slow
def test_shipped_models_load_without_slow_packages() -> None:
    """Importing them takes longer than parsing a photo."""
    script = (
        "import sys, upernet; upernet.load('everyday'); import rich.progress, upernet.cli.main\n"
        "slow = {'timm', 'torchvision', 'torch._dynamo', 'sympy', 'huggingface_hub', 'platformdirs'}\n"
        "print(*slow & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
