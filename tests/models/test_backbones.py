"""Tests of upernet.models.backbones: every family implements the whole protocol."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from upernet.errors import UpernetError
from upernet.models.backbones import (
    BACKBONES,
    as_backbone,
    backbone_normalization,
    build_backbone,
    feature_info,
    is_backbone,
    recognize_backbone,
)
from upernet.models.features import STRIDES

NAMES = [
    "internimage_t",
    "flash_internimage_l",
    "tf_efficientnet_lite0",
    "resnet18",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
    "hrnet_w18_small",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_implements_the_protocol(name: str) -> None:
    with torch.device("meta"):
        module = build_backbone(name)
    backbone = as_backbone(module)
    assert feature_info(module).reduction() == list(STRIDES)
    layers = {parameter: backbone.layer_of(parameter) for parameter, _ in module.named_parameters()}
    # timm counts modules that belong to the classifier, such as HRNet's last ones, to the layer after the last
    assert set(layers.values()) - {backbone.num_layers} == set(range(backbone.num_layers))
    assert next(iter(layers.values())) == 0
    module.eval()
    modules = set(module.modules())
    for conv, norm, after in backbone.foldable_pairs():
        assert {conv, norm, *after} <= modules
    mean, std, *_ = backbone_normalization(name)
    assert len(mean) == len(std) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:-1])  # timm has no gradient checkpointing for HRNet
def test_gradient_checkpointing_leaves_the_gradients_alone(name: str) -> None:
    options = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)} if "internimage" in name else None
    backbone = build_backbone(name, options=options)
    images = torch.randn(2, 3, 64, 64)
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    gradients: list[dict[str, torch.Tensor]] = []
    for enable in (False, True):
        backbone.load_state_dict(state)
        backbone.zero_grad()
        torch.manual_seed(0)  # for stochastic depth
        as_backbone(backbone).set_grad_checkpointing(enable)
        sum(feature.square().mean() for feature in backbone(images)).backward()
        gradients.append({n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-4, msg=key)


def test_every_name_has_one_family_and_own_families_come_before_timm() -> None:
    firsts = [next(family for family in BACKBONES if family.provides(name)) for name in NAMES]
    assert [BACKBONES.index(family) for family in firsts] == [0, 1, 2, 4, 4, 4, 4, 4]
    markers = [marker for family in BACKBONES for marker in family.markers]
    assert len(markers) == len(set(markers))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "feature_norms"),
    [
        ("internimage_t", False),
        ("internimage_h", False),
        ("resnet50", False),
        ("resnet101c", False),
        ("convnext_tiny", True),
        ("swin_tiny_patch4_window7_224", False),
        ("swin_base_patch4_window12_384", True),
    ],
)
def test_state_dicts_are_recognized(name: str, feature_norms: bool) -> None:
    with torch.device("meta"):
        state = build_backbone(name, feature_norms=feature_norms).state_dict()
    assert is_backbone(state) and recognize_backbone(state) == name


def test_a_state_dict_of_another_size_has_a_family_but_no_name() -> None:
    with torch.device("meta"):
        state = build_backbone("internimage_t", options={"depths": (1, 1, 1, 1)}).state_dict()
    assert is_backbone(state) and recognize_backbone(state) is None
    assert not is_backbone({"weight": torch.zeros(1)}) and recognize_backbone({"weight": torch.zeros(1)}) is None


def test_other_modules_are_refused() -> None:
    with pytest.raises(UpernetError, match="Linear is not a backbone"):
        as_backbone(nn.Linear(1, 1))
    with pytest.raises(UpernetError, match="unknown backbone 'nosuch'"):
        backbone_normalization("nosuch")
