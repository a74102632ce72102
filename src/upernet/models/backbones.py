"""Backbones by name, as feature extractors at strides 4, 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from upernet.errors import UpernetError
from upernet.models import efficientnet_lite, internimage
from upernet.models.features import FeatureInfo

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def create_backbone(
    name: str,
    pretrained: bool = False,
    *,
    options: Mapping[str, Any] | None = None,
    drop_path: float = 0.0,
    feature_norms: bool = False,
) -> nn.Module:
    """An InternImage or a timm model that maps N x 3 x H x W to [C2, C3, C4, C5] at strides 4, 8, 16, 32.

    Where several features of a timm model share a stride, the last one is taken.

    Args:
        name: `internimage_{t,s,b,l,xl,h}` or a name that timm knows.
        pretrained: let timm load its ImageNet weights.
        options: what differs from the variant `name` of InternImage.
        drop_path: rate of stochastic depth.
        feature_norms: a layer norm on each feature.

    Raises:
        UpernetError: the name is unknown, the model has no feature at one of the strides, or an option does not fit.
    """
    if name in internimage.VARIANTS:
        if feature_norms or pretrained:
            raise UpernetError(f"backbone {name!r}: feature_norms and weights of timm are for timm's models only.")
        return internimage.create_internimage(name, options or {}, drop_path)
    lite = name.split(".")[0]  # without the tag of timm's weights
    if options:
        known = ", ".join(internimage.VARIANTS)
        raise UpernetError(f"backbone {name!r}: backbone_options are for {known} only; leave them out.")
    if lite not in efficientnet_lite.VARIANTS:
        from upernet.models.timm_backbones import create_timm_backbone

        return create_timm_backbone(name, pretrained, drop_path, feature_norms)
    if feature_norms:
        raise UpernetError(f"backbone {name!r}: feature_norms are for timm's models only; leave them out.")
    backbone = efficientnet_lite.EfficientNetLite(lite, drop_path)
    if pretrained:
        from upernet.models.timm_backbones import create_timm_backbone

        backbone.load_state_dict(create_timm_backbone(name, True).state_dict())
    return backbone


def feature_info(backbone: nn.Module) -> FeatureInfo:
    """What is known of a backbone's features: `channels()`, `reduction()`, `module_name()`."""
    return cast(FeatureInfo, backbone.feature_info)


def backbone_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per RGB channel, in 0..1, that the ImageNet weights of `name` expect."""
    if name in internimage.VARIANTS:
        return IMAGENET_MEAN, IMAGENET_STD
    if name.split(".")[0] in efficientnet_lite.VARIANTS:
        return efficientnet_lite.MEAN, efficientnet_lite.STD
    from upernet.models.timm_backbones import normalization

    return normalization(name)
