"""Backbones by name, as feature extractors at strides 4, 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # pyright: ignore[reportPrivateImportUsage]
from timm.models import FeatureInfo, is_model
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models.internimage import VARIANTS, create_internimage

STRIDES = (4, 8, 16, 32)


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
    if name in VARIANTS:
        if feature_norms or pretrained:
            raise UpernetError(f"backbone {name!r}: feature_norms and weights of timm are for timm's models only.")
        return create_internimage(name, options or {}, drop_path)
    if not is_model(name.split(".")[0]):
        known = ", ".join(VARIANTS)
        raise UpernetError(
            f"unknown backbone {name!r}: give {known}, or the name of a timm model, see timm.list_models()."
        )
    if options:
        raise UpernetError(f"backbone {name!r}: backbone_options are for {', '.join(VARIANTS)} only; leave them out.")
    settings: dict[str, Any] = {"features_only": True}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    if name.startswith("swin_"):  # photos of any size, and windows that stay as they are on small ones
        settings.update(strict_img_size=False, always_partition=True, dynamic_mask=True)
    try:
        backbone = timm.create_model(name, pretrained=False, **settings)
    except (RuntimeError, TypeError) as error:
        raise UpernetError(f"backbone {name!r} cannot be made: {error}.") from error
    info = feature_info(backbone)
    last_at = {stride: index for index, stride in enumerate(info.reduction())}
    missing = [stride for stride in STRIDES if stride not in last_at]
    if missing:
        raise UpernetError(
            f"backbone {name!r} has features at strides {info.reduction()}, none at {missing}: "
            "choose one that has 4, 8, 16 and 32."
        )
    indices = tuple(info.out_indices[last_at[stride]] for stride in STRIDES)
    backbone = timm.create_model(name, pretrained=pretrained, out_indices=indices, **settings)
    channels_last = getattr(backbone, "output_fmt", "NCHW") != "NCHW"
    if channels_last or feature_norms:
        return AdaptedFeatures(backbone, channels_last, feature_norms)
    return backbone


class AdaptedFeatures(nn.Module):
    """A timm model whose features come out as N x C x H x W, each through a layer norm where asked for."""

    def __init__(self, body: nn.Module, channels_last: bool, norms: bool):
        super().__init__()
        self.body = body
        self.channels_last = channels_last
        self.feature_info = feature_info(body)
        self.norms = None
        if norms:
            self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.feature_info.channels())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.body.set_grad_checkpointing(enable)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for index, feature in enumerate(self.body(images)):
            feature = feature if self.channels_last else feature.permute(0, 2, 3, 1)
            if self.norms is not None:
                feature = self.norms[index](feature)
            features.append(feature.permute(0, 3, 1, 2))
        return features


def feature_info(backbone: nn.Module) -> FeatureInfo:
    """What is known of a backbone's features: `channels()`, `reduction()`, `module_name()`."""
    return cast(FeatureInfo, backbone.feature_info)


def backbone_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per RGB channel, in 0..1, that the ImageNet weights of `name` expect."""
    config = timm.get_pretrained_cfg(name) if is_model(name.split(".")[0]) else None
    if config is None:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return tuple(config.mean), tuple(config.std)
