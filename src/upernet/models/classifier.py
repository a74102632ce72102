"""InternImage as a classifier of whole photos (arXiv 2211.05778), as trained on ImageNet.

Parameters have the names of the published checkpoints, those of the backbone behind `backbone.`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from upernet.errors import UpernetError
from upernet.models.internimage import InternImage
from upernet.models.internimage_blocks import layer_norm
from upernet.models.protocol import IMAGENET
from upernet.models.upernet import Preprocess

HEAD_SCALE = 1.5
"""Channels before the classifier over those of C5."""
ATTENTION_CHANNELS, ATTENTION_HEADS, POOLED_CHANNELS = 1024, 16, 768
"""Of the attention pooling of InternImage-H."""


class InternImageClassifier(nn.Module):
    """`classifier(images)` returns N x K logits for N x 3 x H x W images that `preprocess` or `transform` normalized.

    T to XL convolve C5 and average it. H adds up C4 and C5 at stride 16, and pools them by attention.

    Args:
        backbone: The feature extractor.
        classes: Names of the classes, in the order of the logits.
        image_size: Side of the photos in pixels that `transform` returns.
    """

    def __init__(self, backbone: InternImage, classes: Sequence[str], image_size: int = 224):
        super().__init__()
        self.classes, self.image_size = tuple(classes), image_size
        self.preprocess = Preprocess(*IMAGENET)
        self.backbone = backbone
        channels: list[int] = backbone.feature_info.channels()
        self.pools_by_attention = backbone.spec.center_feature_scale
        if self.pools_by_attention:
            self.dcnv3_head_x4 = nn.Sequential(nn.Conv2d(channels[3], 4 * ATTENTION_CHANNELS, 1), nn.PixelShuffle(2))
            self.dcnv3_head_x3 = nn.Conv2d(channels[2], ATTENTION_CHANNELS, 1)
            self.clip_projector = AttentionPooling(ATTENTION_CHANNELS, ATTENTION_HEADS, POOLED_CHANNELS)
            self.fc_norm = nn.Sequential(layer_norm(POOLED_CHANNELS))
            width = POOLED_CHANNELS
        else:
            width = int(HEAD_SCALE * channels[3])
            norm = nn.Sequential(nn.BatchNorm2d(width))  # inside a sequence for the sake of the published names
            self.conv_head = nn.Sequential(nn.Conv2d(channels[3], width, 1, bias=False), norm, nn.GELU())
        self.head = nn.Linear(width, len(self.classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, before softmax.

        Raises:
            UpernetError: H cannot pool images of this size.
        """
        *_, c4, c5 = self.backbone(images)
        if not self.pools_by_attention:
            return self.head(F.adaptive_avg_pool2d(self.conv_head(c5), 1).flatten(1))
        if (c4.shape[-2] | c4.shape[-1]) % 2:
            height, width = images.shape[-2:]
            raise UpernetError(
                f"images of {height}x{width} pixels: InternImage-H classifies multiples of 32; resize them."
            )
        tokens = (self.dcnv3_head_x4(c5) + self.dcnv3_head_x3(c4)).flatten(2).transpose(1, 2)
        return self.head(self.fc_norm(self.clip_projector(tokens)))

    def transform(self, image: Image.Image) -> Tensor:
        """Prepare a photo as the published scores were measured: 3 x S x S, float32, normalized; S is `image_size`.

        The short side is resized to S by bicubic interpolation, and the center is cut out.
        """
        side, short = self.image_size, min(image.size)
        width, height = (max(side, side * length // short) for length in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(resized.crop((left, top, left + side, top + side)))
        return self.preprocess(torch.tensor(pixels).permute(2, 0, 1))


class AttentionPooling(nn.Module):
    """Attention of the mean of all tokens to the tokens: N x T x C -> N x D.

    Args:
        channels: Channels C of a token.
        heads: Number of attention heads.
        out_channels: Channels D of the result.
    """

    def __init__(self, channels: int, heads: int, out_channels: int):
        super().__init__()
        self.norm1_q = nn.Sequential(layer_norm(channels))
        self.norm1_k = nn.Sequential(layer_norm(channels))
        self.norm1_v = nn.Sequential(layer_norm(channels))
        self.cross_dcn = CrossAttention(channels, heads, out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the projected values of the tokens, weighted by attention."""
        mean = tokens.mean(1, keepdim=True)
        return self.cross_dcn(self.norm1_q(mean), self.norm1_k(tokens), self.norm1_v(tokens)).squeeze(1)


class CrossAttention(nn.Module):
    """Multi-head attention with biases of their own, as the published names have them."""

    def __init__(self, channels: int, heads: int, out_channels: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(channels, channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.k_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, out_channels)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return N x Q x D for queries N x Q x C and keys and values N x T x C."""
        q = self._split(F.linear(queries, self.q.weight, self.q_bias))
        k = self._split(F.linear(keys, self.k.weight, self.k_bias))
        v = self._split(F.linear(values, self.v.weight, self.v_bias))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """Return N x T x C as N x heads x T x C/heads."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
