"""DCNv3 on a GPU with Triton: forward and backward.

Each program processes a block of output pixels of one group of one image: it holds a tile (pixels x channels of the
group) and loops over the points. `x` is gathered in place, in any float dtype, and summed in working precision. The
backward kernel adds to the gradient of `x` atomically, so its last bits depend on the order in which the GPU runs the
programs.
"""

# pyright: reportGeneralTypeIssues=false
# Triton reads these functions as its own language; compile-time constants are upper-case, and it takes them one by one.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.runtime.dtypes import working_dtype

BLOCK = 64


@triton.jit
def _axis(location, size):
    """Return the pixel before a location and the fraction beyond it; a location that reaches no pixel becomes -1."""
    location = tl.where((location > -1) & (location < size), location, -1.0)
    floor = tl.floor(location)
    return floor.to(tl.int32), location - floor


@triton.jit
def _place(
    offset, mask, point, pixel, pixel_valid, p, height, width, w,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, DILATION_Y: tl.constexpr, DILATION_X: tl.constexpr,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr,
    SCALE: tl.constexpr, REMOVE_CENTER: tl.constexpr, POINTS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Return where point p of each pixel samples (pixel before, fractions, whether it reaches x), and its mask."""
    if REMOVE_CENTER:
        p = tl.where(p < POINTS // 2, p, p + 1)
    grid_x = (p // KERNEL_Y) * DILATION_X - DILATION_X * (KERNEL_X - 1) // 2
    grid_y = (p % KERNEL_Y) * DILATION_Y - DILATION_Y * (KERNEL_Y - 1) // 2
    dx = tl.load(offset + 2 * point, mask=pixel_valid, other=0.0).to(SUM)
    dy = tl.load(offset + 2 * point + 1, mask=pixel_valid, other=0.0).to(SUM)
    x = (pixel % w * STRIDE_X + ORIGIN_X).to(SUM) + SCALE * (grid_x + dx)
    y = (pixel // w * STRIDE_Y + ORIGIN_Y).to(SUM) + SCALE * (grid_y + dy)
    inside = pixel_valid & (x > -1) & (x < width) & (y > -1) & (y < height)
    left, fraction_x = _axis(x, width)
    top, fraction_y = _axis(y, height)
    return top, left, fraction_y, fraction_x, inside, tl.load(mask + point, mask=pixel_valid, other=0.0).to(SUM)


@triton.jit
def _corner(y, x, inside, height, width, channels, channel, channel_valid):
    """Return the addresses (pixels x channels) of one corner within an image, and which of them exist."""
    valid = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixel = (y.to(tl.int64) * width + x) * channels
    return pixel[:, None] + channel[None, :], valid[:, None] & channel_valid[None, :]


@triton.jit
def _forward(
    x, offset, mask, out, height, width, h, w, channels, groups,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, DILATION_Y: tl.constexpr, DILATION_X: tl.constexpr,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr,
    SCALE: tl.constexpr, REMOVE_CENTER: tl.constexpr, POINTS: tl.constexpr,
    PER_GROUP: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    lane = tl.arange(0, LANES)
    lane_valid = lane < PER_GROUP
    channel = group * PER_GROUP + lane
    pixel_valid = pixel < h * w
    x += image * height * width * channels
    here = image * h * w + pixel
    total = tl.zeros((BLOCK, LANES), SUM)
    for p in range(POINTS):
        point = (here * groups + group) * POINTS + p
        top, left, fy, fx, inside, m = _place(
            offset, mask, point, pixel, pixel_valid, p, height, width, w, KERNEL_Y, KERNEL_X, DILATION_Y, DILATION_X,
            STRIDE_Y, STRIDE_X, ORIGIN_Y, ORIGIN_X, SCALE, REMOVE_CENTER, POINTS, SUM,
        )  # fmt: skip
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                address, valid = _corner(top + dy, left + dx, inside, height, width, channels, channel, lane_valid)
                weight = m * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
                total += weight[:, None] * tl.load(x + address, mask=valid, other=0.0).to(SUM)
    address = here[:, None] * channels + channel[None, :]
    tl.store(out + address, total, mask=pixel_valid[:, None] & lane_valid[None, :])


@triton.jit
def _backward(
    grad, x, offset, mask, g_x, g_offset, g_mask, height, width, h, w, channels, groups,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, DILATION_Y: tl.constexpr, DILATION_X: tl.constexpr,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr,
    SCALE: tl.constexpr, REMOVE_CENTER: tl.constexpr, POINTS: tl.constexpr,
    PER_GROUP: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    lane = tl.arange(0, LANES)
    lane_valid = lane < PER_GROUP
    channel = group * PER_GROUP + lane
    pixel_valid = pixel < h * w
    x += image * height * width * channels
    g_x += image * height * width * channels
    here = image * h * w + pixel
    address = here[:, None] * channels + channel[None, :]
    g = tl.load(grad + address, mask=pixel_valid[:, None] & lane_valid[None, :], other=0.0).to(SUM)
    for p in range(POINTS):
        point = (here * groups + group) * POINTS + p
        top, left, fy, fx, inside, m = _place(
            offset, mask, point, pixel, pixel_valid, p, height, width, w, KERNEL_Y, KERNEL_X, DILATION_Y, DILATION_X,
            STRIDE_Y, STRIDE_X, ORIGIN_Y, ORIGIN_X, SCALE, REMOVE_CENTER, POINTS, SUM,
        )  # fmt: skip
        slope_x = tl.zeros((BLOCK,), SUM)
        slope_y = tl.zeros((BLOCK,), SUM)
        value = tl.zeros((BLOCK,), SUM)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                address, valid = _corner(top + dy, left + dx, inside, height, width, channels, channel, lane_valid)
                weight_y = fy if dy else 1 - fy
                weight_x = fx if dx else 1 - fx
                product = tl.sum(g * tl.load(x + address, mask=valid, other=0.0).to(SUM), axis=1)
                value += weight_y * weight_x * product
                slope_x += (2 * dx - 1) * weight_y * product
                slope_y += (2 * dy - 1) * weight_x * product
                tl.atomic_add(g_x + address, (m * weight_y * weight_x)[:, None] * g, mask=valid)
        tl.store(g_mask + point, value, mask=pixel_valid)
        tl.store(g_offset + 2 * point, SCALE * m * slope_x, mask=pixel_valid)
        tl.store(g_offset + 2 * point + 1, SCALE * m * slope_y, mask=pixel_valid)


def _launch(kernel: Any, tensors: tuple[Tensor, ...], x: Tensor, h: int, w: int, s: Geometry, working: Any) -> None:
    n, height, width, channels = x.shape
    per_group = channels // s.groups
    if n * h * w == 0:
        return
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(h * w, BLOCK), s.groups, n)](
            *tensors, height, width, h, w, channels, s.groups,
            KERNEL_Y=s.kernel_size[0], KERNEL_X=s.kernel_size[1], DILATION_Y=s.dilation[0], DILATION_X=s.dilation[1],
            STRIDE_Y=s.stride[0], STRIDE_X=s.stride[1], ORIGIN_Y=s.origin[0], ORIGIN_X=s.origin[1],
            SCALE=s.offset_scale, REMOVE_CENTER=s.remove_center, POINTS=len(s.displacements),
            PER_GROUP=per_group, LANES=triton.next_power_of_2(per_group), BLOCK=BLOCK,
            SUM=tl.float64 if working == torch.float64 else tl.float32,
        )  # fmt: skip


def forward(x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> Tensor:
    """Compute `upernet.ops.dcnv3` in the dtype of x."""
    x, offset, mask = x.contiguous(), offset.contiguous(), mask.contiguous()
    n, h, w = offset.shape[:3]
    out = x.new_empty(n, h, w, x.shape[-1])
    _launch(_forward, (x, offset, mask, out), x, h, w, s, working_dtype(x, offset, mask))
    return out


def backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (in working precision), offset and mask (in their own dtypes)."""
    grad, x, offset, mask = grad.contiguous(), x.contiguous(), offset.contiguous(), mask.contiguous()
    working = working_dtype(grad, x, offset, mask)
    g_x, g_offset, g_mask = torch.zeros_like(x, dtype=working), torch.empty_like(offset), torch.empty_like(mask)
    h, w = offset.shape[1:3]
    _launch(_backward, (grad, x, offset, mask, g_x, g_offset, g_mask), x, h, w, s, working)
    return g_x, g_offset, g_mask
