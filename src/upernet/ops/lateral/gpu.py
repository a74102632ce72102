"""Lateral connections on a GPU with Triton: all that follows the product, in one pass."""

# pyright: reportGeneralTypeIssues=false
# Triton reads these functions as its own language; compile-time constants are upper-case by convention.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upernet.ops.runtime.bilinear_gpu import NARROW, WIDE, channels_last_tile, corners, launch


@triton.jit
def _address(pixel, channel, pixels, channels, LAST: tl.constexpr):
    """Return the addresses of a tile within an image that is channels-last or channels-first."""
    pixel = pixel.to(tl.int64)[:, None]
    return pixel * channels + channel[None, :] if LAST else channel[None, :].to(tl.int64) * pixels + pixel


@triton.jit
def _add_resized(
    x, scale, shift, coarse, out, height, width, coarse_height, coarse_width, channels,
    LAST: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.program_id(2).to(tl.int64)
    channel_valid = channel < channels
    valid = (pixel < height * width)[:, None] & channel_valid[None, :]
    x += image * height * width * channels
    out += image * height * width * channels
    coarse += image * coarse_height * coarse_width * channels
    here = _address(pixel, channel, height * width, channels, LAST)
    factor = tl.load(scale + channel, mask=channel_valid, other=0.0).to(SUM)[None, :]
    summand = tl.load(shift + channel, mask=channel_valid, other=0.0).to(SUM)[None, :]
    value = tl.load(x + here, mask=valid, other=0.0).to(SUM) * factor + summand
    total = tl.where(value < 0, 0.0, value)  # NaN stays
    top, bottom, fy = corners(pixel // width, coarse_height, height, SUM)
    left, right, fx = corners(pixel % width, coarse_width, width, SUM)
    for dy in tl.static_range(2):
        for dx in tl.static_range(2):
            corner = (bottom if dy else top) * coarse_width + (right if dx else left)
            weight = (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
            address = _address(corner, channel, coarse_height * coarse_width, channels, LAST)
            total += weight[:, None] * tl.load(coarse + address, mask=valid, other=0.0).to(SUM)
    tl.store(out + here, total, mask=valid)


def add_resized(x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """Compute relu(x * scale + shift) plus `coarse` resized to `x`: `upernet.ops.lateral` after the product.

    `x` is N x C x H x W and `coarse` N x C x h x w. The result has the dtype and memory format of `x`.
    """
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    x, coarse = (each.contiguous(memory_format=layout) for each in (x, coarse))
    out = torch.empty_like(x)
    _, channels, height, width = x.shape
    tile = channels_last_tile(channels) if last else (WIDE, min(NARROW, triton.next_power_of_2(channels)))
    tensors = x, scale.contiguous(), shift.contiguous(), coarse, out
    launch(_add_resized, tile, height * width, channels, tensors, height, width, *coarse.shape[2:], LAST=last)
    return out
