"""EfficientNet-Lite: EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6.

Parameter names and outputs are those of timm's `tf_efficientnet_lite*` with `features_only`. The shipped models use
this backbone, and importing timm takes longer than they take to parse a photo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from upernet.models.features import DropPath, Feature, FeatureInfo
from upernet.models.initialization import initialize
from upernet.models.protocol import BackboneSettings, ConvNormPair, Normalization, Setting
from upernet.ops import depthwise_conv2d, pointwise_conv2d

VARIANTS: dict[str, tuple[float, float]] = {
    "tf_efficientnet_lite0": (1.0, 1.0),
    "tf_efficientnet_lite1": (1.0, 1.1),
    "tf_efficientnet_lite2": (1.1, 1.2),
    "tf_efficientnet_lite3": (1.2, 1.4),
    "tf_efficientnet_lite4": (1.4, 1.8),
}
"""Width and depth multiplier of each variant."""
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Stage(NamedTuple):
    """One stage of EfficientNet-B0 (paper, table 1)."""

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
FEATURES = (1, 2, 4, 6)
"""Stages whose output is C2, C3, C4, C5."""


class EfficientNetLite(nn.Module):
    """The feature extractor. It implements `upernet.models.backbones.Backbone`.

    Args:
        name: one of `VARIANTS`.
        drop_path: rate of stochastic depth at the last block; it rises linearly from 0 at the first.
    """

    def __init__(self, name: str, drop_path: float = 0.0):
        super().__init__()
        width, depth = VARIANTS[name]
        self.grad_checkpointing = False
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.bn1 = batch_norm(STEM_CHANNELS)
        depths = [stage.blocks for stage in STAGES]
        depths[1:-1] = [math.ceil(blocks * depth) for blocks in depths[1:-1]]  # the first and last keep their depth
        widths = [_multiple_of_8(stage.channels * width) for stage in STAGES]
        rates = [drop_path * index / sum(depths) for index in range(sum(depths))]
        self.blocks = nn.Sequential()
        channels = STEM_CHANNELS
        for stage, blocks, out_channels, stop in zip(STAGES, depths, widths, accumulate(depths), strict=True):
            self.blocks.append(_stage(stage, channels, out_channels, rates[stop - blocks : stop]))
            channels = out_channels
        strides = list(accumulate((stage.stride for stage in STAGES), lambda a, b: a * b, initial=2))[1:]
        self.feature_info = FeatureInfo(*(Feature(widths[i], strides[i], f"blocks.{i}") for i in FEATURES))
        initialize(self, _initialize)

        self._depths = depths

    @property
    def num_layers(self) -> int:
        """Number of layers: the stem and each block, as in timm."""
        return 1 + sum(self._depths)

    def layer_of(self, parameter: str) -> int:
        """Return the layer of a parameter: 0 for the stem, j + 1 for block j of the network."""
        group, *rest = parameter.split(".")
        return sum(self._depths[: int(rest[0])]) + int(rest[1]) + 1 if group == "blocks" else 0

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the input of each stage in training, and recompute the stage in the backward pass."""
        self.grad_checkpointing = enable

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return every convolution with its batch norm."""
        pairs = [ConvNormPair(self.conv_stem, self.bn1)]
        for module in self.modules():
            if isinstance(module, (DepthwiseSeparable, InvertedResidual)):
                pairs.extend(module.foldable_pairs())
        return pairs

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return C2, C3, C4, C5 of `images`, N x 3 x H x W."""
        x = F.relu6(normalized(self.conv_stem, self.bn1, images), inplace=True)
        features: list[Tensor] = []
        for index, stage in enumerate(self.blocks):
            checkpointed = self.grad_checkpointing and self.training
            x = checkpoint(stage, x, use_reentrant=False) if checkpointed else stage(x)  # pyright: ignore
            if index in FEATURES:
                features.append(x)
        return features


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as in TensorFlow: the output is ceil(size / stride).

    If the padding is odd, the extra row or column is at the bottom or right.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of `input`, N x C x H x W."""
        return self.convolve(input, self.weight, self.bias)

    def convolve(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of `input`, N x C x H x W, with another weight and bias."""
        if self.stride[0] > 1:
            (top, bottom), (left, right) = (self._padding_of(size) for size in input.shape[-2:])
            input = F.pad(input, (left, right, top, bottom))
        if self.groups > 1:
            return depthwise_conv2d(input, weight, bias, self.stride[0], int(self.padding[0]))
        if self.kernel_size == (1, 1):
            return pointwise_conv2d(input, weight, bias)
        return self._conv_forward(input, weight, bias)

    def _padding_of(self, size: int) -> tuple[int, int]:
        """Return the padding before and after a side of this size."""
        stride, kernel_size = self.stride[0], self.kernel_size[0]
        # No term is negative, because exported graphs would round quotients of negative numbers up.
        padding = (size + stride - 1) // stride * stride - size + kernel_size - stride
        return padding // 2, padding - padding // 2


class DepthwiseSeparable(nn.Module):
    """The block without expansion: a depthwise convolution, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.conv_dw = SameConv2d(in_channels, in_channels, kernel_size, stride, groups=in_channels)
        self.bn1 = batch_norm(in_channels)
        self.conv_pw = SameConv2d(in_channels, out_channels, 1)
        self.bn2 = batch_norm(out_channels)

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return each convolution with its batch norm."""
        return [ConvNormPair(self.conv_dw, self.bn1), ConvNormPair(self.conv_pw, self.bn2)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, N x C x H x W."""
        x = F.relu6(normalized(self.conv_dw, self.bn1, x), inplace=True)
        return normalized(self.conv_pw, self.bn2, x)


class InvertedResidual(nn.Module):
    """A 1x1 convolution that expands the channels, a depthwise and a 1x1 one, and a skip if the shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int, drop_path: float
    ):
        super().__init__()
        hidden = in_channels * expansion
        self.conv_pw = SameConv2d(in_channels, hidden, 1)
        self.bn1 = batch_norm(hidden)
        self.conv_dw = SameConv2d(hidden, hidden, kernel_size, stride, groups=hidden)
        self.bn2 = batch_norm(hidden)
        self.conv_pwl = SameConv2d(hidden, out_channels, 1)
        self.bn3 = batch_norm(out_channels)
        self.drop_path = DropPath(drop_path)
        self.has_skip = stride == 1 and in_channels == out_channels

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return each convolution with its batch norm."""
        return [
            ConvNormPair(self.conv_pw, self.bn1),
            ConvNormPair(self.conv_dw, self.bn2),
            ConvNormPair(self.conv_pwl, self.bn3),
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, N x C x H x W."""
        y = F.relu6(normalized(self.conv_pw, self.bn1, x), inplace=True)
        y = F.relu6(normalized(self.conv_dw, self.bn2, y), inplace=True)
        y = normalized(self.conv_pwl, self.bn3, y)
        return x + self.drop_path(y) if self.has_skip else y


def normalized(conv: SameConv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Return the normalized convolution of `x`, N x C x H x W.

    A batch norm with frozen statistics is linear. In training, it becomes part of the convolution, which saves passes
    over the maps in both directions.
    """
    if norm.training or not torch.is_grad_enabled() or not isinstance(norm, nn.BatchNorm2d):
        return norm(conv(x))
    scale = norm.weight * (norm.get_buffer("running_var") + norm.eps).rsqrt()
    shift = norm.bias - norm.get_buffer("running_mean") * scale
    return conv.convolve(x, conv.weight * scale.view(-1, 1, 1, 1), shift)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)


def _stage(stage: Stage, in_channels: int, out_channels: int, rates: list[float]) -> nn.Sequential:
    if stage.expansion == 1:
        return nn.Sequential(DepthwiseSeparable(in_channels, out_channels, stage.kernel_size, stage.stride))
    blocks = nn.Sequential()
    for index, rate in enumerate(rates):
        channels, stride = (in_channels, stage.stride) if index == 0 else (out_channels, 1)
        blocks.append(InvertedResidual(channels, out_channels, stage.kernel_size, stride, stage.expansion, rate))
    return blocks


def _multiple_of_8(channels: float) -> int:
    """Round to the nearest multiple of 8, or up if that would lose more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))


class EfficientNetLiteFamily:
    """EfficientNet-Lite 0 to 4, in `BACKBONES`."""

    listing: str = ", ".join(VARIANTS)
    supported: tuple[Setting, ...] = ()
    markers: frozenset[str] = frozenset()  # no other program's UPerNet has this backbone

    def provides(self, name: str) -> bool:
        """Return whether `name` is a variant, which can have the tag of timm's weights (`NAME.in1k`)."""
        return _variant(name) in VARIANTS

    def create(self, name: str, settings: BackboneSettings) -> EfficientNetLite:
        """Return the variant `name`."""
        return EfficientNetLite(_variant(name), settings.drop_path)

    def normalization(self, name: str) -> Normalization:
        """Return the same for every variant."""
        return NORMALIZATION

    def recognize(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return None: see `markers`."""
        return None


FAMILY = EfficientNetLiteFamily()


def _variant(name: str) -> str:
    return name.split(".")[0]
