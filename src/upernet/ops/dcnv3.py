"""DCNv3, deformable convolution with per-point modulation and channel groups (arXiv 2211.05778, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dcnv3(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """x N x H x W x C, offset N x h x w x (G P 2), mask N x h x w x (G P) -> N x h x w x C."""
    n, height, width, channels = x.shape
    rows, columns = offset.shape[1:3]
    kh, kw = kernel_size
    a = torch.arange(kw, device=x.device).repeat_interleave(kh)
    b = torch.arange(kh, device=x.device).repeat(kw)
    if remove_center:
        keep = torch.arange(kh * kw, device=x.device) != (kh * kw) // 2
        a, b = a[keep], b[keep]
    points = len(a)
    dx = (a * dilation[1] - dilation[1] * (kw - 1) // 2).to(x.dtype)
    dy = (b * dilation[0] - dilation[0] * (kh - 1) // 2).to(x.dtype)
    cx = torch.arange(columns, device=x.device) * stride[1] - padding[1] + dilation[1] * (kw - 1) // 2
    cy = torch.arange(rows, device=x.device) * stride[0] - padding[0] + dilation[0] * (kh - 1) // 2
    off = offset.reshape(n, rows, columns, groups, points, 2)
    px = cx.to(x.dtype)[None, None, :, None, None] + offset_scale * (dx + off[..., 0])
    py = cy.to(x.dtype)[None, :, None, None, None] + offset_scale * (dy + off[..., 1])
    grid = torch.stack([(2 * px + 1) / width - 1, (2 * py + 1) / height - 1], dim=-1)
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(n * groups, rows * columns, points, 2)
    values = x.permute(0, 3, 1, 2).reshape(n * groups, channels // groups, height, width)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = mask.reshape(n, rows * columns, groups, points).permute(0, 2, 1, 3).reshape(n * groups, 1, -1, points)
    out = (sampled * weight).sum(-1)
    return out.view(n, channels, rows, columns).permute(0, 2, 3, 1).contiguous()
