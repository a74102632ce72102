"""3x3 convolution of resized maps as products with matrices, which every runtime computes and no map size is fixed in.

Coarse maps are convolved at their own resolution, as in `taps.py`. Resizing and shifting are linear along each axis, so
two matrices take the nine products of a coarse map to the fine grid, whatever the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.conv3x3.reference import conv2d
from upernet.ops.runtime.bilinear import has_size


def forward(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute `upernet.ops.upsample_conv3x3`."""
    first = maps[0]
    weight = weight.to(first.dtype)
    if scale is not None:
        weight = weight * scale.to(first.dtype).view(-1, 1, 1, 1)  # constant in an exported network
    weights = weight.split([x.shape[1] for x in maps], dim=1)
    fine = [k for k, x in enumerate(maps) if has_size(x, first.shape[-2:])]
    out = conv2d(torch.cat([maps[k] for k in fine], 1), torch.cat([weights[k] for k in fine], 1))
    for k in range(len(maps)):
        if k not in fine:
            out = out + _convolved(maps[k], weights[k], first)
    if shift is not None:
        out = out + shift.to(first.dtype).view(-1, 1, 1)
    return out.relu() if relu else out


def _convolved(x: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """Convolve N x C x h x w, resized to N x C x H x W as `like`, with D x C x 3 x 3: N x D x H x W."""
    n, channels, height, width = x.shape
    taps = F.conv2d(x, weight.permute(2, 3, 0, 1).reshape(-1, channels, 1, 1))
    taps = taps.reshape(n, 3, 3, -1, height, width).permute(0, 3, 1, 4, 2, 5)  # N x D x 3 x h x 3 x w
    taps = taps.reshape(n, -1, 3 * height, 3 * width)
    rows, columns = (shifted_resize(*sides, x) for sides in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return rows @ taps @ columns.mT


def shifted_resize(coarse: int, fine: int, like: Tensor) -> Tensor:
    """Return the matrix fine x (3 coarse) that resizes an axis bilinearly and shifts the three results by -1, 0 and 1.

    Row p of shift s holds the weights of the coarse pixels at the fine position p + s, and zeros outside of the map.
    The result has the dtype and the device of `like`. Positions are whole numbers of 1 / (2 `fine`) coarse pixels.
    """
    position = torch.arange(fine, device=like.device)[:, None] + torch.arange(-1, 2, device=like.device)
    center = ((2 * position + 1) * coarse - fine).clamp(min=0).clamp(max=2 * fine * (coarse - 1))
    distance = center[..., None] - torch.arange(coarse, device=like.device) * (2 * fine)
    weights = (1 - distance.abs().to(like.dtype) / (2 * fine)).clamp(min=0)
    inside = (position >= 0) & (position < fine)
    return (weights * inside[..., None].to(like.dtype)).flatten(1)
