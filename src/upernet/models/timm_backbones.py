"""Backbones from timm. Importing timm takes longer than a photo, so this module is imported where it is needed."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # pyright: ignore[reportPrivateImportUsage]
from timm.models import FeatureInfo, is_model
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models import efficientnet_lite, internimage
from upernet.models.features import STRIDES


def create_timm_backbone(name: str, pretrained: bool, drop_path: float = 0.0, feature_norms: bool = False) -> nn.Module:
    """As `upernet.models.backbones.create_backbone`, for the names that timm knows."""
    if not is_model(name.split(".")[0]):
        known = ", ".join([*internimage.VARIANTS, *efficientnet_lite.VARIANTS])
        raise UpernetError(
            f"unknown backbone {name!r}: give {known}, or the name of a timm model, see timm.list_models()."
        )
    settings: dict[str, Any] = {"features_only": True}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    is_swin = name.startswith("swin_")
    if is_swin:  # photos of any size, and windows that keep their size on small ones
        settings.update(strict_img_size=False, always_partition=True)
    try:
        backbone = timm.create_model(name, pretrained=False, **settings)
    except (RuntimeError, TypeError) as error:
        raise UpernetError(f"backbone {name!r} cannot be made: {error}.") from error
    if getattr(backbone, "output_fmt", "NCHW") != "NCHW" and not is_swin:
        raise UpernetError(f"backbone {name!r} has its channels last, which the decoder does not take; choose another.")
    info = cast(FeatureInfo, backbone.feature_info)
    last_at = {stride: index for index, stride in enumerate(info.reduction())}
    missing = [stride for stride in STRIDES if stride not in last_at]
    if missing:
        raise UpernetError(
            f"backbone {name!r} has features at strides {info.reduction()}, none at {missing}: "
            "choose one that has 4, 8, 16 and 32."
        )
    indices = tuple(info.out_indices[last_at[stride]] for stride in STRIDES)
    backbone = timm.create_model(name, pretrained=pretrained, out_indices=indices, **settings)
    return AdaptedFeatures(backbone, is_swin, feature_norms) if is_swin or feature_norms else backbone


class AdaptedFeatures(nn.Module):
    """A timm backbone that computes what the Swin and ConvNeXt of mmsegmentation and transformers compute.

    Args:
        is_swin: the body's features are N x H x W x C, and it takes images whose sides are multiples of 4 only.
        norms: a layer norm on each feature, with the epsilon that the body's have.
    """

    def __init__(self, body: nn.Module, is_swin: bool, norms: bool):
        super().__init__()
        self.body = body
        self.is_swin = is_swin
        info = cast(FeatureInfo, body.feature_info)
        described = [entry | {"module": f"body.{entry['module'].replace('.', '_')}"} for entry in info.info]
        self.feature_info = FeatureInfo(described, info.out_indices)
        self.norms = None
        if norms:
            epsilon = next((module.eps for module in body.modules() if isinstance(module, nn.LayerNorm)), 1e-6)
            self.norms = nn.ModuleList(nn.LayerNorm(channels, epsilon) for channels in info.channels())
        for module in body.modules():
            if type(module) is SwinTransformerBlock:
                module.__class__ = PaddedSwinBlock

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.body.set_grad_checkpointing(enable)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> list[Tensor]:
        """N x 3 x H x W -> [C2, C3, C4, C5], N x C x h x w."""
        if self.is_swin:
            images = F.pad(images, (0, -images.shape[-1] % 4, 0, -images.shape[-2] % 4))
        features: list[Tensor] = self.body(images)
        if self.is_swin:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        if self.norms is not None:
            pairs = zip(features, self.norms, strict=True)
            features = [norm(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for feature, norm in pairs]
        return features


class PaddedSwinBlock(SwinTransformerBlock):
    """Pads a map to whole windows before it shifts them, as published; timm shifts first: other values at borders."""

    def _attn(self, x: Tensor) -> Tensor:
        (rows, columns), (height, width) = self.window_size, x.shape[1:3]
        padded = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        return super()._attn(padded)[:, :height, :width]


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """As `upernet.models.backbones.backbone_normalization`, for the names that timm knows."""
    config = timm.get_pretrained_cfg(name) if is_model(name.split(".")[0]) else None
    if config is None:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return tuple(config.mean), tuple(config.std)
