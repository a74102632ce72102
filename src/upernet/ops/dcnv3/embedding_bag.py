"""DCNv3 on CPUs without Numba, in plain torch: each output is a weighted sum of rows of `x`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.dcnv3.reference import sampled_locations
from upernet.ops.runtime.dtypes import to_working_precision


def forward(x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> Tensor:
    """Compute `dcnv3` as weighted sums of 4 P rows of `x`, the corners of the points, so that no sample is stored."""
    x, offset, mask = to_working_precision(x, offset, mask)
    n, _, _, channels = x.shape
    rows, columns = offset.shape[1:3]
    py, px = sampled_locations(x, offset, s)
    x = F.pad(x, (0, 0, 2, 1, 2, 1))  # zeros for all corners outside: locations range from -2 to the size
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
