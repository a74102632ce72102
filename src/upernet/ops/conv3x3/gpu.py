"""Tap maps on a GPU with Triton: upsampling with shifts, and its adjoint.

Each program processes a block of pixels of one image and some channels, and gathers what they need in place, in any
float dtype; sums are in working precision. The same holds for the adjoint: a coarse pixel gathers from the fine
positions that read it, so nothing is added atomically and results do not depend on the order of programs.
"""

# pyright: reportGeneralTypeIssues=false
# Triton reads these functions as its own language; compile-time constants are upper-case by convention.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from upernet.ops.runtime.bilinear_gpu import channels_last_tile, corners, launch, position_of
from upernet.ops.runtime.dtypes import working_dtype


@triton.jit
def _weight(p, pixel, coarse, fine, SUM: tl.constexpr):
    """Return the weight with which position p reads a coarse pixel; 0 outside the fine grid."""
    distance = tl.abs(position_of(p, coarse, fine) - pixel * 2 * fine)
    return tl.where((p >= 0) & (p < fine), tl.maximum(2 * fine - distance, 0), 0).to(SUM) / (2 * fine)


@triton.jit
def _first_reader(pixel, coarse, fine):
    """Return a position before which none reads the coarse pixel; none reads it from 2 fine / coarse + 1 further on."""
    return tl.maximum((2 * pixel - 1) * fine - coarse, 0) // (2 * coarse)


@triton.jit
def _upsample_taps(
    product, base, out, height, width, coarse_height, coarse_width, channels,
    ADD: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.program_id(2).to(tl.int64)
    channel_valid = (channel < channels)[None, :]
    product += image * coarse_height * coarse_width * 9 * channels
    here = (image * height * width + pixel)[:, None] * channels + channel[None, :]
    here_valid = (pixel < height * width)[:, None] & channel_valid
    total = tl.zeros((PIXELS, CHANNELS), SUM)
    if ADD:
        total += tl.load(base + here, mask=here_valid, other=0.0).to(SUM)
    for tap in range(9):
        y = pixel // width + tap // 3 - 1
        x = pixel % width + tap % 3 - 1
        valid = ((y >= 0) & (y < height) & (x >= 0) & (x < width))[:, None] & channel_valid
        top, bottom, fy = corners(y, coarse_height, height, SUM)
        left, right, fx = corners(x, coarse_width, width, SUM)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                corner = (bottom if dy else top).to(tl.int64) * coarse_width + (right if dx else left)
                weight = (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
                address = (corner * 9 + tap)[:, None] * channels + channel[None, :]
                total += weight[:, None] * tl.load(product + address, mask=valid, other=0.0).to(SUM)
    tl.store(out + here, total, mask=here_valid)


@triton.jit
def _upsample_taps_gradient(
    grad, out, readers_y, readers_x, height, width, coarse_height, coarse_width, channels,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    tap = tl.program_id(1) % 9
    channel = tl.program_id(1) // 9 * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.program_id(2).to(tl.int64)
    pixel_valid = pixel < coarse_height * coarse_width
    channel_valid = (channel < channels)[None, :]
    grad += image * height * width * channels
    row, column = pixel // coarse_width, pixel % coarse_width
    first_y = _first_reader(row, coarse_height, height)
    first_x = _first_reader(column, coarse_width, width)
    total = tl.zeros((PIXELS, CHANNELS), SUM)
    for i in range(readers_y):
        weight_y = _weight(first_y + i, row, coarse_height, height, SUM)
        y = first_y + i - tap // 3 + 1
        for j in range(readers_x):
            weight = weight_y * _weight(first_x + j, column, coarse_width, width, SUM)
            x = first_x + j - tap % 3 + 1
            valid = (weight > 0) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            address = (y.to(tl.int64) * width + x)[:, None] * channels + channel[None, :]
            value = tl.load(grad + address, mask=valid[:, None] & channel_valid, other=0.0).to(SUM)
            total += weight[:, None] * value
    here = ((image * coarse_height * coarse_width + pixel) * 9 + tap)[:, None] * channels + channel[None, :]
    tl.store(out + here, total, mask=pixel_valid[:, None] & channel_valid)


def upsample_taps(taps: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Compute `taps.upsample_taps`, for tap maps of any float dtype and any D."""
    images, _, _, channels = taps[0].shape
    channels //= 9
    out = taps[0].new_empty(images, height, width, channels)
    working = working_dtype(*taps)
    partial = out if out.dtype == working or len(taps) == 1 else torch.empty_like(out, dtype=working)
    for k, tap_map in enumerate(taps):
        tensors = tap_map.contiguous(), partial, out if k == len(taps) - 1 else partial
        sizes = height, width, *tap_map.shape[1:3]
        launch(_upsample_taps, channels_last_tile(channels), height * width, channels, tensors, *sizes, ADD=k > 0)
    return out


def upsample_taps_gradient(grad: Tensor, coarse_height: int, coarse_width: int) -> Tensor:
    """Compute the adjoint of `upsample_taps` for one tap map: grad N x H x W x D -> N x h x w x (9 D)."""
    images, height, width, channels = grad.shape
    out = grad.new_empty(images, coarse_height, coarse_width, 9 * channels)
    readers = (
        min(fine, triton.cdiv(2 * fine, coarse) + 1)
        for fine, coarse in ((height, coarse_height), (width, coarse_width))
    )
    sizes = *readers, height, width, coarse_height, coarse_width
    pixels, tensors = coarse_height * coarse_width, (grad.contiguous(), out)
    launch(_upsample_taps_gradient, channels_last_tile(channels), pixels, channels, tensors, *sizes, taps=9)
    return out
