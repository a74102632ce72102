"""Backbones from timm, as feature extractors at strides 4, 8, 16 and 32."""

from __future__ import annotations

from typing import cast

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # pyright: ignore[reportPrivateImportUsage]
from timm.models import FeatureInfo, is_model
from torch import nn

from upernet.errors import UpernetError

STRIDES = (4, 8, 16, 32)


def create_backbone(name: str, pretrained: bool = False) -> nn.Module:
    """A timm model that maps N x 3 x H x W to [C2, C3, C4, C5] at strides 4, 8, 16, 32.

    Where several features share a
    stride, the last one is taken.

    Raises:
        UpernetError: timm does not know `name`, or the model has no feature at one of the strides.
    """
    if not is_model(name.split(".")[0]):
        raise UpernetError(f"unknown backbone {name!r}: give the name of a timm model, see timm.list_models().")
    try:
        backbone = timm.create_model(name, features_only=True, pretrained=False)
    except RuntimeError as error:
        raise UpernetError(f"backbone {name!r} cannot be made: {error}.") from error
    if getattr(backbone, "output_fmt", "NCHW") != "NCHW":
        raise UpernetError(f"backbone {name!r} has its channels last, which the decoder does not take; choose another.")
    info = feature_info(backbone)
    last_at = {stride: index for index, stride in enumerate(info.reduction())}
    missing = [stride for stride in STRIDES if stride not in last_at]
    if missing:
        raise UpernetError(
            f"backbone {name!r} has features at strides {info.reduction()}, none at {missing}: "
            "choose one that has 4, 8, 16 and 32."
        )
    indices = tuple(info.out_indices[last_at[stride]] for stride in STRIDES)
    return timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=indices)


def feature_info(backbone: nn.Module) -> FeatureInfo:
    """What timm knows of a backbone's features: `channels()`, `reduction()`, `module_name()`."""
    return cast(FeatureInfo, backbone.feature_info)


def backbone_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per RGB channel, in 0..1, that the ImageNet weights of `name` expect."""
    config = timm.get_pretrained_cfg(name) if is_model(name.split(".")[0]) else None
    if config is None:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return tuple(config.mean), tuple(config.std)
