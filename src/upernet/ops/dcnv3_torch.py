"""DCNv3 in plain torch: the reference, and the kernel for machines without Numba. Differentiable, any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.sampling import Sampling, to_working_precision


def _locations(x: Tensor, offset: Tensor, s: Sampling) -> tuple[Tensor, Tensor]:
    """Rows and columns that are sampled, in pixels of x, each N x h x w x G x P.

    Places from which no pixel of x is reached, NaN among them, are moved to -2, where the sample is zero as well and
    where no gradient arrives.
    """
    _, height, width, _ = x.shape
    n, rows, columns, _ = offset.shape
    dy, dx = x.new_tensor(s.displacements).unbind(1)
    offset = offset.reshape(n, rows, columns, s.groups, -1, 2)
    i = torch.arange(rows, device=x.device, dtype=x.dtype) * s.stride[0] + s.origin[0]
    j = torch.arange(columns, device=x.device, dtype=x.dtype) * s.stride[1] + s.origin[1]
    py = i[:, None, None, None] + s.offset_scale * (dy + offset[..., 1])
    px = j[:, None, None] + s.offset_scale * (dx + offset[..., 0])
    return torch.where((py > -1) & (py < height), py, -2), torch.where((px > -1) & (px < width), px, -2)


def grid_sample(x: Tensor, offset: Tensor, mask: Tensor, s: Sampling) -> Tensor:
    """One `grid_sample` of all points of all groups; needs P times the memory of its result."""
    x, offset, mask = to_working_precision(x, offset, mask)
    n, height, width, channels = x.shape
    rows, columns = offset.shape[1:3]
    py, px = _locations(x, offset, s)
    grid = torch.stack([(2 * px + 1) / width - 1, (2 * py + 1) / height - 1], dim=-1)
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(n * s.groups, rows * columns, -1, 2)
    values = x.permute(0, 3, 1, 2).reshape(n * s.groups, channels // s.groups, height, width)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = (
        mask.reshape(n, rows * columns, s.groups, -1).permute(0, 2, 1, 3).reshape(n * s.groups, 1, rows * columns, -1)
    )
    out = (sampled * weight).sum(-1)
    return out.view(n, channels, rows, columns).permute(0, 2, 3, 1).contiguous()


def embedding_bag(x: Tensor, offset: Tensor, mask: Tensor, s: Sampling) -> Tensor:
    """Each output as the weighted sum of 4 P rows of x (the corners of its points): no sample is ever stored."""
    x, offset, mask = to_working_precision(x, offset, mask)
    n, _, _, channels = x.shape
    rows, columns = offset.shape[1:3]
    py, px = _locations(x, offset, s)
    x = F.pad(x, (0, 0, 2, 1, 2, 1))  # zeros for all corners outside: places are from -2 to the size
    _, height, width, _ = x.shape
    top, left = py.detach().floor(), px.detach().floor()
    image = torch.arange(n, device=x.device)[:, None, None, None, None]
    group = torch.arange(s.groups, device=x.device)[:, None]
    corner = ((image * height + top.long() + 2) * width + left.long() + 2) * s.groups + group
    corners = torch.tensor([0, 1, width, width + 1], device=x.device) * s.groups
    fy, fx = py - top, px - left
    upper, lower = (1 - fy) * mask.reshape(fy.shape), fy * mask.reshape(fy.shape)
    weights = torch.stack([upper * (1 - fx), upper * fx, lower * (1 - fx), lower * fx], -1)
    bags = n * rows * columns * s.groups
    out = F.embedding_bag(
        (corner[..., None] + corners).reshape(bags, 4 * weights.shape[-2]),
        x.reshape(n * height * width * s.groups, channels // s.groups),
        per_sample_weights=weights.reshape(bags, 4 * weights.shape[-2]),
        mode="sum",
    )
    return out.view(n, rows, columns, channels)


def backward_of(forward: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The backward kernel that belongs to a differentiable forward kernel (computes the forward pass once more)."""

    def backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, s: Sampling) -> tuple[Tensor, Tensor, Tensor]:
        # vjp and not autograd.grad: inside an operator autograd records nothing
        out, vjp, *_ = torch.func.vjp(lambda *inputs: forward(*inputs, s), x, offset, mask)
        return vjp(grad.to(out.dtype))

    return backward
