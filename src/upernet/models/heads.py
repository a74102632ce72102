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


class SceneHead(nn.Module):
    """Scene of the whole photo from the PPM output: 3x3 convolution, global average, linear.

    There is no convolution if `channels` is 0.
    """

    def __init__(self, in_channels: int, channels: int, num_logits: int, dropout: float):
        super().__init__()
        self.conv = Conv3x3BnRelu(in_channels, channels) if channels else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels or in_channels, num_logits)

    def forward(self, p5: Tensor) -> Tensor:
        """N x D x H/32 x W/32 -> N x K."""
        return self.classifier(self.dropout(F.adaptive_avg_pool2d(self.conv(p5), 1).flatten(1)))


class PixelHead(nn.Module):
    """A label per pixel: 3x3 convolution, 1x1 classifier. Objects and parts on the fused map, materials on P2.

    There is no convolution if `channels` is 0.
    """

    def __init__(self, in_channels: int, channels: int, num_logits: int, dropout: float):
        super().__init__()
        self.conv = Conv3x3BnRelu(in_channels, channels) if channels else nn.Identity()
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(channels or in_channels, num_logits)

    def forward(self, x: Tensor) -> Tensor:
        """N x D x H x W -> N x K x H x W."""
        return self.classifier(self.dropout(self.conv(x)))


class TextureHead(nn.Module):
    """Textures from shallow backbone features (C2 in the paper), whose gradient is stopped.

    `depth` 3x3 convolutions. On C2 alone the receptive field stays small, so that neighbouring regions of a photo can
    differ; deeper features, brought to the size of the first, trade that for more to tell textures by.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, depth: int, num_logits: int):
        super().__init__()
        widths = [sum(in_channels)] + [channels] * depth
        self.convs = nn.Sequential(*(Conv3x3BnRelu(a, b) for a, b in pairwise(widths)))
        self.classifier = Classifier(channels, num_logits)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[N x C x H/4 x W/4, ...] -> N x K x H/4 x W/4."""
        stopped = [resize_like(feature.detach(), features[0]) for feature in features]
        return self.classifier(self.convs(torch.cat(stopped, dim=1)))
