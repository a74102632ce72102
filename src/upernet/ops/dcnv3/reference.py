"""DCNv3 in plain torch, the reference for all other kernels: differentiable, on any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.runtime.dtypes import to_working_precision


def sampled_locations(x: Tensor, offset: Tensor, s: Geometry) -> tuple[Tensor, Tensor]:
    """Return the rows and columns that are sampled, in pixels of `x`, each N x h x w x G x P.

    Locations that reach no pixel of `x`, NaN among them, move to -2, where the sample is zero as well and where no
    gradient arrives.
    """
    _, height, width, _ = x.shape
    n, rows, columns = offset.shape[:3]
    dy, dx = x.new_tensor(s.displacements).unbind(1)
    offset = offset.reshape(n, rows, columns, s.groups, -1, 2)
    i = torch.arange(rows, device=x.device, dtype=x.dtype) * s.stride[0] + s.origin[0]
    j = torch.arange(columns, device=x.device, dtype=x.dtype) * s.stride[1] + s.origin[1]
    py = i[:, None, None, None] + s.offset_scale * (dy + offset[..., 1])
    px = j[:, None, None] + s.offset_scale * (dx + offset[..., 0])
    return torch.where((py > -1) & (py < height), py, -2), torch.where((px > -1) & (px < width), px, -2)


def forward(x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> Tensor:
    """Compute `dcnv3` with one `grid_sample` of all points of all groups, in working precision.

    This needs P times the memory of its result.
    """
    x, offset, mask = to_working_precision(x, offset, mask)
    n, height, width, channels = x.shape
    rows, columns = offset.shape[1:3]
    py, px = sampled_locations(x, offset, s)
    grid = torch.stack([(2 * px + 1) / width - 1, (2 * py + 1) / height - 1], dim=-1)
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(n * s.groups, rows * columns, -1, 2)
    values = x.permute(0, 3, 1, 2).reshape(n * s.groups, channels // s.groups, height, width)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = (
        mask.reshape(n, rows * columns, s.groups, -1).permute(0, 2, 1, 3).reshape(n * s.groups, 1, rows * columns, -1)
    )
    out = (sampled * weight).sum(-1)
    return out.view(n, channels, rows, columns).permute(0, 2, 3, 1).contiguous()


def backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, `offset` and `mask`; this computes the forward pass once more."""
    # vjp rather than autograd.grad: autograd records nothing inside an operator
    out, vjp, *_ = torch.func.vjp(lambda x, offset, mask: forward(x, offset, mask, s), x, offset, mask)
    return vjp(grad.to(out.dtype))


class ComposedDcnv3(TorchFunctionMode):
    """Inside this mode, DCNv3 is composed of torch's own functions, which autograd and exporters see through.

    As a custom operator, `use_kernel(dcnv3="torch")` would compute its forward pass once more for the gradient.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.upernet.dcnv3, torch.ops.upernet.dcnv3.default):
            x, offset, mask, *geometry = args
            return forward(x, offset, mask, Geometry(*geometry)).to(x.dtype)
        return func(*args, **(kwargs or {}))
