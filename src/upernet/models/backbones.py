"""The registry of backbones: feature extractors at strides 4, 8, 16 and 32, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args

from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models import deep_resnet, efficientnet_lite, flash_internimage, internimage, timm_family
from upernet.models.features import FeatureInfo
from upernet.models.protocol import (
    Backbone,
    BackboneFamily,
    BackboneSettings,
    ConvNormPair,
    Normalization,
    OptionValue,
    Setting,
)

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneFamily",
    "BackboneSettings",
    "ConvNormPair",
    "Normalization",
    "as_backbone",
    "backbone_normalization",
    "build_backbone",
    "feature_info",
    "is_backbone",
    "recognize_backbone",
]

BACKBONES: tuple[BackboneFamily, ...] = (
    internimage.FAMILY,
    flash_internimage.FAMILY,
    efficientnet_lite.FAMILY,
    deep_resnet.FAMILY,
    timm_family.FAMILY,
)
"""All families. The first one that provides a name creates it, so timm, which has EfficientNet-Lite too, is last."""


def build_backbone(
    name: str,
    *,
    options: Mapping[str, OptionValue] | None = None,
    drop_path: float = 0.0,
    feature_norms: bool = False,
) -> nn.Module:
    """Return the backbone `name`, which maps N x 3 x H x W to [C2, C3, C4, C5] at strides 4, 8, 16, 32.

    Args:
        name: `internimage_{t,s,b,l,xl,h}`, `flash_internimage_{t,s,b,l}`, `{resnet50,resnet101,resnext101}_deep` or the
            name of a timm model. Where several features of a timm model share a stride, the last one is used.
        options: values that replace those of the variant `name` (InternImage: the fields of `InternImageSpec`;
            FlashInternImage: those of `FlashInternImageSpec`).
        drop_path: rate of stochastic depth.
        feature_norms: add a layer norm to each feature.

    Raises:
        UpernetError: the name is unknown, the model has no feature at one of the strides, an option does not fit, or
            the backbone does not support a setting.
    """
    settings = BackboneSettings(dict(options or {}), drop_path, feature_norms)
    family = _family_of(name)
    for setting in get_args(Setting):
        if getattr(settings, setting) and setting not in family.supported:
            others = "; ".join(other.listing for other in BACKBONES if setting in other.supported)
            key = "backbone_options" if setting == "options" else setting
            raise UpernetError(f"backbone {name!r} does not support {key}; leave it out or choose another: {others}.")
    return family.create(name, settings)


def backbone_normalization(name: str) -> Normalization:
    """Return the normalization of images that the ImageNet weights of `name` expect.

    Raises:
        UpernetError: the name is unknown.
    """
    return _family_of(name).normalization(name)


def as_backbone(module: nn.Module) -> Backbone:
    """Return `module`, typed as a backbone.

    Raises:
        UpernetError: it does not implement `Backbone`.
    """
    if not hasattr(module, "layer_of"):
        raise UpernetError(f"{type(module).__name__} is not a backbone; create one with build_backbone.")
    return cast(Backbone, module)


def feature_info(backbone: nn.Module) -> FeatureInfo:
    """Return the description of a backbone's features."""
    return as_backbone(backbone).feature_info


def is_backbone(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict belongs to a known family, even if its size has no name."""
    return any(not tensors.keys().isdisjoint(family.markers) for family in BACKBONES)


def recognize_backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the backbone that a state dict belongs to; None if it has no name.

    Args:
        tensors: the state dict, with the names that `build_backbone` gives; other tensors may be among them.
    """
    for family in BACKBONES:
        if not tensors.keys().isdisjoint(family.markers):
            return family.recognize(tensors)
    return None


def _family_of(name: str) -> BackboneFamily:
    for family in BACKBONES:
        if family.provides(name):
            return family
    known = "; ".join(family.listing for family in BACKBONES)
    raise UpernetError(f"unknown backbone {name!r}; choose one of these: {known}.")
