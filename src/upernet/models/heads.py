"""One head per level of perception (arXiv 1807.10221, section 3.2 and figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.models.decoder import Conv3x3BnRelu
from upernet.models.layers import Classifier
from upernet.ops import resize_like


class ImageHead(nn.Module):
    """Head for one label per image, such as the scene: 3x3 convolution, global average pooling, linear layer.

    The convolution is left out if `channels` is 0.
    """

    def __init__(self, in_channels: int, channels: int, num_logits: int, dropout: float):
        super().__init__()
        self.conv = Conv3x3BnRelu(in_channels, channels) if channels else nn.Identity()
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
        self.conv = Conv3x3BnRelu(in_channels, channels) if channels else nn.Identity()
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(channels or in_channels, num_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x D x H x W features to N x K x H x W logits."""
        return self.classifier(self.dropout(self.conv(x)))


class TextureHead(nn.Module):
    """Head for textures: `depth` 3x3 convolutions on shallow backbone features (C2 in the paper), gradient stopped.

    On C2 alone the receptive field stays small, so that neighboring regions of a photo can differ. Deeper features,
    resized to the first ones, give up some of that for more context.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, depth: int, num_logits: int):
        super().__init__()
        widths = [sum(in_channels)] + [channels] * depth
        self.convs = nn.Sequential(*(Conv3x3BnRelu(a, b) for a, b in pairwise(widths)))
        self.classifier = Classifier(channels, num_logits)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [N x C x H/4 x W/4, ...] to N x K x H/4 x W/4 logits."""
        stopped = [resize_like(feature.detach(), features[0]) for feature in features]
        return self.classifier(self.convs(torch.cat(stopped, dim=1)))
