"""One head per level of perception (arXiv 1807.10221, section 3.2 and figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.models.decoder import Conv3x3BnRelu, ConvBnRelu
from upernet.models.layers import Classifier
from upernet.ops import resize_like
from upernet.recipe import TextureSpec


class ImageHead(nn.Module):
    """Head for one label per image, such as the scene: convolution, global average pooling, linear layer.

    The convolution is left out if `channels` is 0.
    """

    def __init__(self, in_channels: int, channels: int, num_logits: int, dropout: float, kernel_size: int = 3):
        super().__init__()
        conv = Conv3x3BnRelu((in_channels,), channels) if kernel_size == 3 else ConvBnRelu(in_channels, channels, 1)
        self.conv = conv if channels else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels or in_channels, num_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x D x H x W features to N x K logits."""
        return self.classifier(self.dropout(F.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)))


class PixelHead(nn.Module):
    """Head for one label per pixel: 3x3 convolution, 1x1 classifier.

    The convolution is left out if `channels` is 0.
    """

    def __init__(self, in_channels: int, channels: int, num_logits: int, dropout: float):
        super().__init__()
        self.conv = Conv3x3BnRelu((in_channels,), channels) if channels else nn.Identity()
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(channels or in_channels, num_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x D x H x W features to N x K x H x W logits."""
        return self.classifier(self.dropout(self.conv(x)))


class TextureHead(nn.Module):
    """Head for textures: `depth` 3x3 convolutions on shallow backbone features (C2 in the paper), gradient stopped.

    On C2 alone the receptive field stays small, so that neighboring regions of a photo can differ. Deeper features,
    resized to the first ones, give up some of that for more context. Means over `windows` describe the surroundings of
    a pixel without their layout, as the pooled descriptors of Cimpoi et al., "Deep Filter Banks for Texture Recognition
    and Segmentation", CVPR 2015, do. At stride 8, the first features are averaged over 2 x 2 pixels, and the logits are
    resized.
    """

    def __init__(self, in_channels: Sequence[int], spec: TextureSpec, num_logits: int):
        super().__init__()
        self.stride, self.windows = spec.stride, spec.windows
        widths = [sum(in_channels)] + [spec.channels] * spec.depth
        self.convs = nn.Sequential(*(Conv3x3BnRelu((a,), b) for a, b in pairwise(widths)))
        described = (1 + len(self.windows)) * spec.channels
        self.mixed = ConvBnRelu(described, spec.channels, 1) if self.windows else nn.Identity()
        self.classifier = Classifier(spec.channels, num_logits)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [N x C x H/4 x W/4, ...] to N x K x H/4 x W/4 logits."""
        first = features[0].detach()
        if self.stride == 8:
            first = F.avg_pool2d(first, 2, ceil_mode=True)
        stopped = [first, *(resize_like(feature.detach(), first) for feature in features[1:])]
        x = self.convs(torch.cat(stopped, dim=1))
        means = [F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False) for side in self.windows]
        return resize_like(self.classifier(self.mixed(torch.cat([x, *means], dim=1))), features[0])
