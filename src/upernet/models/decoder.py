"""The pyramid decoder of UPerNet (arXiv 1807.10221, section 3.2): PPM on C5, FPN, fusion at stride 4."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.models.precise_pooling import precise_pool
from upernet.ops import lateral, resize_like, upsample_conv3x3


class ConvBnRelu(nn.Sequential):
    """A convolution that keeps the size, a batch norm and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    @property
    def parts(self) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
        """The convolution, the batch norm and the ReLU."""
        return cast(tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU], tuple(self))


class Conv3x3BnRelu(ConvBnRelu):
    """A 3x3 convolution of maps that are resized to the first one and concatenated, a batch norm and a ReLU.

    Args:
        map_channels: Channels of each map.
        out_channels: Channels of the result.
    """

    bfloat16_layers: ClassVar[tuple[str, ...]] = ("0",)

    def __init__(self, map_channels: Sequence[int], out_channels: int):
        super().__init__(sum(map_channels), out_channels, 3)
        self.map_channels = tuple(map_channels)

    def forward(self, input: Tensor, *others: Tensor) -> Tensor:
        """Map features N x C_k x h_k x w_k to N x D x h_1 x w_1."""
        conv, norm, relu = self.parts
        maps = (input, *others)
        if _is_constant(norm):
            return upsample_conv3x3(maps, conv.weight, *scale_and_shift(norm), relu=True)
        return relu(norm(upsample_conv3x3(maps, conv.weight)))


class Lateral(ConvBnRelu):
    """A lateral connection: 1x1 convolution, batch norm and ReLU, plus the resized coarser map."""

    bfloat16_layers: ClassVar[tuple[str, ...]] = ("0",)

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor, coarse: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map N x C x H x W and the coarser N x D x h x w to N x D x H x W."""
        conv, norm, relu = self.parts
        if _is_constant(norm):
            return lateral(input, conv.weight, *scale_and_shift(norm), coarse)
        x = relu(norm(F.conv2d(input, conv.weight.to(input.dtype))))
        return x + resize_like(coarse, x)


def _is_constant(norm: nn.BatchNorm2d) -> bool:
    """Return whether the batch norm is a fixed scale and shift per channel that needs no gradient."""
    return not norm.training and not torch.is_grad_enabled()


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and shift per channel, D each, to which the batch norm amounts in eval mode."""
    scale = norm.weight * (norm.get_buffer("running_var") + norm.eps).rsqrt()
    return scale, norm.bias - norm.get_buffer("running_mean") * scale


class PyramidPooling(nn.Module):
    """Pyramid pooling module: a 3x3 convolution of C5 and its s x s averages, resized to C5.

    Args:
        in_channels: Channels of C5.
        channels: Channels of the result.
        pool_scales: The sides s of the grids.
        pool_channels: Channels of each convolved average; None: `channels`.
        precise: Average as PrRoIPool does, and resize before the ReLU instead of after it, as in the released code of
            Unified Perceptual Parsing.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        pool_channels: int | None = None,
        precise: bool = False,
    ):
        super().__init__()
        self.pool_scales, self.precise = tuple(pool_scales), precise
        width = pool_channels or channels
        self.pooled = nn.ModuleList(ConvBnRelu(in_channels, width, 1) for _ in self.pool_scales)
        self.bottleneck = Conv3x3BnRelu((in_channels, *(width for _ in self.pool_scales)), channels)

    def forward(self, c5: Tensor) -> Tensor:
        """Map C5, N x C x H/32 x W/32, to N x D x H/32 x W/32."""
        layers = zip(self.pool_scales, cast(Iterable[ConvBnRelu], self.pooled), strict=True)
        if self.precise:
            return self.bottleneck(c5, *(self._resized_before_relu(c5, scale, *layer.parts) for scale, layer in layers))
        return self.bottleneck(c5, *(layer(F.adaptive_avg_pool2d(c5, scale)) for scale, layer in layers))

    @staticmethod
    def _resized_before_relu(c5: Tensor, scale: int, conv: nn.Conv2d, norm: nn.BatchNorm2d, relu: nn.ReLU) -> Tensor:
        """Return one average as large as C5. The released code convolves after the resize, which is the same.

        Bilinear interpolation commutes with a 1x1 convolution without bias, which is cheap on the s x s averages.
        """
        return relu(norm(resize_like(conv(precise_pool(c5, scale)), c5)))


class FeaturePyramid(nn.Module):
    """Feature pyramid: each of C2..C4 passes a 1x1 convolution, adds the coarser sum, and passes a 3x3 convolution."""

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(Lateral(c, channels) for c in in_channels)
        self.output = nn.ModuleList(Conv3x3BnRelu((channels,), channels) for _ in in_channels)

    def forward(self, features: Sequence[Tensor], p5: Tensor) -> list[Tensor]:
        """Map [C2, C3, C4] and P5 to [P2, P3, P4, P5], with D channels, at strides 4, 8, 16, 32."""
        pyramid, top = [p5], p5
        for feature, enter, output in reversed(list(zip(features, self.lateral, self.output, strict=True))):
            top = enter(feature, top)
            pyramid.insert(0, output(top))
        return pyramid


class Fusion(nn.Module):
    """Fusion: a 3x3 convolution of P2..P5, which are resized to P2 and concatenated."""

    def __init__(self, channels: int, levels: int = 4):
        super().__init__()
        self.conv = Conv3x3BnRelu(levels * (channels,), channels)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Map P2..P5 to the fused map, N x D x H/4 x W/4."""
        return self.conv(*pyramid)
