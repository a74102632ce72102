"""3x3 convolution of resized maps in plain torch: the reference, and the steps that the other kernels share with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.runtime.bilinear import resize_like


def forward(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute `upernet.ops.upsample_conv3x3` in the published way: resize, concatenate, convolve."""
    resized = torch.cat([resize_like(x, maps[0]) for x in maps], dim=1)
    return apply_epilogue(conv2d(resized, weight.to(resized.dtype)), scale, shift, relu)


def conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve N x C x H x W with D x C x 3 x 3 and a padding of 1."""
    return F.conv2d(x, weight, padding=1)


def sum_of_convolutions(maps: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Resize each map to the first, convolve it with its own weight, and add the results."""
    out = conv2d(maps[0], weights[0])
    for x, weight in zip(maps[1:], weights[1:], strict=True):
        out += conv2d(resize_like(x, maps[0]), weight)
    return out


def split_weight(weight: Tensor, maps: Sequence[Tensor]) -> Sequence[Tensor]:
    """Split the weight into one per map. Slices would each have a gradient as large as the whole."""
    return weight.to(maps[0].dtype).split([x.shape[1] for x in maps], dim=1)


def apply_epilogue(x: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool) -> Tensor:
    """Scale and shift the channels of N x D x H x W, and rectify the result if `relu`."""
    if scale is not None and shift is not None and not scale.requires_grad:
        # Batch norm with mean 0 and variance 1 is one pass over the map instead of two.
        zero = torch.zeros_like(scale)
        x = F.batch_norm(x, zero, torch.ones_like(scale), scale, shift, eps=0.0)
    else:
        if scale is not None:
            x = x * scale.view(-1, 1, 1)
        if shift is not None:
            x = x + shift.view(-1, 1, 1)
    if not relu:
        return x
    return x.relu() if torch.is_grad_enabled() else torch.relu_(x)
