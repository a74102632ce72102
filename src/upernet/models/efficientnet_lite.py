"""EfficientNet-Lite (EfficientNet, arXiv 1905.11946, without squeeze-and-excitation and with ReLU6), as a backbone.

Names of parameters and what is computed are those of timm's `tf_efficientnet_lite*` with `features_only`. The shipped
models have this backbone, and timm takes longer to import than they take to parse a photo.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from upernet.models.features import DropPath, Feature, FeatureInfo
from upernet.models.initialization import initialize

VARIANTS: dict[str, tuple[float, float]] = {
    "tf_efficientnet_lite0": (1.0, 1.0),
    "tf_efficientnet_lite1": (1.0, 1.1),
    "tf_efficientnet_lite2": (1.1, 1.2),
    "tf_efficientnet_lite3": (1.2, 1.4),
    "tf_efficientnet_lite4": (1.4, 1.8),
}
"""Factors of channels and of blocks per stage."""
MEAN = STD = (0.5, 0.5, 0.5)
"""Of the pixels, in 0..1, as the published ImageNet weights want them."""


class Stage(NamedTuple):
    """Of EfficientNet-B0 (paper, table 1)."""

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
    """N x 3 x H x W -> [C2, C3, C4, C5], N x C x h x w at strides 4, 8, 16, 32 (sides rounded up at each halving).

    Args:
        name: one of `VARIANTS`.
        drop_path: rate of stochastic depth at the last block; it rises evenly from 0 at the first.
    """

    def __init__(self, name: str, drop_path: float = 0.0):
        super().__init__()
        width, depth = VARIANTS[name]
        self.grad_checkpointing = False
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.bn1 = batch_norm(STEM_CHANNELS)
        depths = [stage.blocks for stage in STAGES]
        depths[1:-1] = [math.ceil(blocks * depth) for blocks in depths[1:-1]]  # the first and last are never deeper
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

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each stage for the backward pass, and compute the stage again there."""
        self.grad_checkpointing = enable

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self.bn1(self.conv_stem(images)), inplace=True)
        features = []
        for index, stage in enumerate(self.blocks):
            checkpointed = self.grad_checkpointing and self.training
            x = checkpoint(stage, x, use_reentrant=False) if checkpointed else stage(x)  # pyright: ignore
            if index in FEATURES:
                features.append(x)
        return features


class SameConv2d(nn.Conv2d):
    """Convolution without bias whose output has the input's size over the stride, rounded up, as TensorFlow pads.

    An odd row or column of padding lies below or on the right.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        if self.stride[0] > 1:
            (top, bottom), (left, right) = (self._around(size) for size in input.shape[-2:])
            input = F.pad(input, (left, right, top, bottom))
        return super().forward(input)

    def _around(self, size: int) -> tuple[int, int]:
        stride, kernel_size = self.stride[0], self.kernel_size[0]
        padding = max(0, (-(-size // stride) - 1) * stride + kernel_size - size)
        return padding // 2, padding - padding // 2


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, then 1x1 convolution: the block without expansion."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.conv_dw = SameConv2d(in_channels, in_channels, kernel_size, stride, groups=in_channels)
        self.bn1 = batch_norm(in_channels)
        self.conv_pw = SameConv2d(in_channels, out_channels, 1)
        self.bn2 = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv_dw(x)), inplace=True)
        return self.bn2(self.conv_pw(x))


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution; x is added where the shapes agree."""

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

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        y = F.relu6(self.bn2(self.conv_dw(y)), inplace=True)
        y = self.bn3(self.conv_pwl(y))
        return x + self.drop_path(y) if self.has_skip else y


def batch_norm(channels: int) -> nn.BatchNorm2d:
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
    """The nearest multiple of 8 that is not more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
