"""The pyramid decoder of UPerNet (arXiv 1807.10221, section 3.2): PPM on C5, FPN, fusion at stride 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Bilinear resize of `x` to the height and width of `reference` (pixel centres at half integers)."""
    if x.shape[-2:] == reference.shape[-2:]:
        return x
    return F.interpolate(x, size=reference.shape[-2:], mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """Pyramid pooling module: C5 and its s x s averages, brought back to C5's size, through one 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, pool_scales: Sequence[int] = (1, 2, 3, 6)):
        super().__init__()
        self.pool_scales = tuple(pool_scales)
        self.pooled = nn.ModuleList(conv_bn_relu(in_channels, channels, 1) for _ in self.pool_scales)
        self.bottleneck = conv_bn_relu(in_channels + len(self.pool_scales) * channels, channels, 3)

    def forward(self, c5: Tensor) -> Tensor:
        """N x C5 x H/32 x W/32 -> N x D x H/32 x W/32."""
        levels = [c5]
        for scale, conv in zip(self.pool_scales, self.pooled, strict=True):
            levels.append(resize_like(conv(F.adaptive_avg_pool2d(c5, scale)), c5))
        return self.bottleneck(torch.cat(levels, dim=1))


class FeaturePyramid(nn.Module):
    """Top-down path: each C2..C4 enters through a 1x1 convolution, takes the coarser sum, leaves through a 3x3 one."""

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_relu(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in in_channels)

    def forward(self, features: Sequence[Tensor], p5: Tensor) -> list[Tensor]:
        """[C2, C3, C4] and P5 -> [P2, P3, P4, P5] of D channels, at strides 4, 8, 16, 32."""
        pyramid, top = [p5], p5
        for feature, lateral, output in reversed(list(zip(features, self.lateral, self.output, strict=True))):
            lateral_feature = lateral(feature)
            top = lateral_feature + resize_like(top, lateral_feature)
            pyramid.insert(0, output(top))
        return pyramid


class Fusion(nn.Module):
    """[P2, P3, P4, P5] at P2's size, concatenated, through one 3x3 convolution.

    A convolution of a concatenation is the sum of convolutions of its parts. It is computed so, because the
    concatenation of four maps at stride 4 would be the largest tensor of the network by far.
    """

    def __init__(self, channels: int, levels: int = 4):
        super().__init__()
        self.conv = conv_bn_relu(levels * channels, channels, 3)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """-> N x D x H/4 x W/4."""
        kernels = cast(nn.Conv2d, self.conv[0]).weight.chunk(len(pyramid), dim=1)
        out = F.conv2d(pyramid[0], kernels[0], padding=1)
        for level, kernel in zip(pyramid[1:], kernels[1:], strict=True):
            out += F.conv2d(resize_like(level, pyramid[0]), kernel, padding=1)
        return self.conv[1:](out)
