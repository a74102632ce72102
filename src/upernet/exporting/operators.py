"""Operators as exported graphs hold them: standard ones, for sizes that are not known yet."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from upernet.ops import PLAIN, use_kernel
from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.runtime.dtypes import to_working_precision

Dcnv3 = Literal["gridsample", "deformconv"]
"""The standard operator that computes DCNv3."""
Decoder = Literal["fast", "published"]
"""Whether coarse maps are convolved at their own resolution, or resized first as published."""


@contextmanager
def exportable(dcnv3: Dcnv3 = "gridsample", decoder: Decoder = "fast") -> Generator[None, None, None]:
    """Compute networks by standard operators inside the block, so that they can be traced for all sizes."""
    kernels = PLAIN if decoder == "published" else {**PLAIN, "upsample_conv3x3": "matrices"}
    with use_kernel(**kernels), StandardOperators(dcnv3):
        yield


class StandardOperators(TorchFunctionMode):
    """Replaces what runtimes lack inside the block: DCNv3, and adaptive pooling of maps whose size is not known."""

    def __init__(self, dcnv3: Dcnv3):
        super().__init__()
        self.dcnv3 = deform_conv if dcnv3 == "deformconv" else grid_sample

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute `func`, or what replaces it."""
        if func in (torch.ops.upernet.dcnv3, torch.ops.upernet.dcnv3.default):
            x, offset, mask, *geometry = args
            return self.dcnv3(x, offset, mask, Geometry(*geometry)).to(x.dtype)
        if func is F.adaptive_avg_pool2d:
            return average_pool(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def average_pool(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """Compute `F.adaptive_avg_pool2d` by products with matrices: ... x H x W -> ... x h x w."""
    sides = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if sides == (1, 1):
        return input.mean((-2, -1), keepdim=True)
    rows, columns = (
        mean_weights(length, length if bins is None else bins, input)
        for length, bins in zip(input.shape[-2:], sides, strict=True)
    )
    return rows @ input @ columns.mT


def mean_weights(length: int, bins: int, like: Tensor) -> Tensor:
    """Return the weight of each of `length` pixels in each mean of adaptive pooling along one axis: bins x length.

    Bin i goes from pixel floor(i length / bins) up to, but not including, ceil((i + 1) length / bins).
    """
    edges = torch.arange(bins + 1, device=like.device)[:, None] * length
    first = edges[:-1].div(bins, rounding_mode="floor")
    stop = (edges[1:] + (bins - 1)).div(bins, rounding_mode="floor")
    pixels = torch.arange(length, device=like.device)
    return ((pixels >= first) & (pixels < stop)).to(like.dtype) / (stop - first).to(like.dtype)


def grid_sample(x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> Tensor:
    """Compute `upernet.ops.dcnv3` with one `F.grid_sample` of all points of all groups, in working precision.

    Unlike `upernet.ops.dcnv3.reference`, which also takes offsets of infinity and NaN, this passes only twice over the
    offsets: it scales them to the coordinates of `grid_sample`, and adds the grid that all images and groups share.
    """
    x, offset, mask = to_working_precision(x, offset, mask)
    n, height, width, channels = x.shape
    rows, columns = offset.shape[1:3]
    dy, dx = x.new_tensor(s.displacements).unbind(1)
    i = torch.arange(rows, device=x.device, dtype=x.dtype) * s.stride[0] + s.origin[0]
    j = torch.arange(columns, device=x.device, dtype=x.dtype) * s.stride[1] + s.origin[1]
    px = (2 * (j[:, None] + s.offset_scale * dx) + 1) / width - 1  # w x P
    py = (2 * (i[:, None] + s.offset_scale * dy) + 1) / height - 1  # h x P
    points = px.shape[1]
    base = torch.stack([px.expand(rows, -1, -1), py[:, None].expand(-1, columns, -1)], dim=-1)
    factor = x.new_full((1,), 2 * s.offset_scale)
    factor = torch.cat([factor / width, factor / height])
    pixels = rows * columns
    grid = offset.reshape(n, pixels, s.groups, points, 2) * factor + base.reshape(pixels, 1, points, 2)
    grid = grid.transpose(1, 2).reshape(n * s.groups, pixels, points, 2)
    values = x.permute(0, 3, 1, 2).reshape(n * s.groups, channels // s.groups, height, width)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = mask.reshape(n, pixels, s.groups, points).transpose(1, 2).reshape(n * s.groups, 1, pixels, points)
    return (sampled * weight).sum(-1).reshape(n, channels, rows, columns).permute(0, 2, 3, 1)


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> Tensor:
    """Return DCNv3 as the ONNX operator DeformConv, with one filter of ones per channel.

    The result has no values; it is for tracing. DeformConv numbers the points row by row, gives (dy, dx), and has no
    factor, so the factor of the kernel's grid moves into the offsets.
    """
    x, offset, mask = to_working_precision(x, offset, mask)
    n, channels = x.shape[0], x.shape[3]
    rows, columns = offset.shape[1:3]
    kh, kw = s.kernel_size
    shift = x.new_tensor(s.displacements) * (s.offset_scale - 1)  # (dy, dx) per point
    moved = offset.reshape(n, rows, columns, s.groups, kw, kh, 2).flip(-1) * s.offset_scale
    moved = (moved + shift.reshape(kw, kh, 2)).permute(0, 3, 5, 4, 6, 1, 2)  # N x G x kh x kw x 2 x h x w
    weights = mask.reshape(n, rows, columns, s.groups, kw, kh).permute(0, 3, 5, 4, 1, 2)
    inputs = (
        x.permute(0, 3, 1, 2),
        x.new_ones(channels, 1, kh, kw),
        moved.reshape(n, -1, rows, columns),
        None,
        weights.reshape(n, -1, rows, columns),
    )
    attributes: dict[str, Any] = {
        "kernel_shape": list(s.kernel_size),
        "strides": list(s.stride),
        "pads": [*s.padding, *s.padding],
        "dilations": list(s.dilation),
        "group": channels,
        "offset_group": s.groups,
    }
    result = torch.onnx.ops.symbolic(
        "DeformConv", inputs, attributes, dtype=x.dtype, shape=(n, channels, rows, columns), version=19
    )
    return result.permute(0, 2, 3, 1)
