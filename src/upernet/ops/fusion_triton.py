"""Upsampling and shifted adding of tap maps, its adjoint, and the resize with a sum, on a GPU with Triton.

Tap maps are those of `fusion_numba`. A program works on a block of pixels of one image and some channels, and gathers
what they take where it lies, in any float type; sums are in working precision. That goes for the adjoint too: a coarse
pixel gathers from the fine positions that read it, so nothing is added atomically and results do not depend on the
order of programs.

Places on the coarse grid are whole numbers of `1 / (2 fine)` of a pixel, as (p + 1/2) coarse / fine - 1/2 is, so they
are exact; 32 bits hold them up to the sides that `fusion.MAX_SIDE` allows.
"""

# pyright: reportGeneralTypeIssues=false
# Triton reads these functions as its own language.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from upernet.ops.sampling import working_dtype

NARROW, WIDE = 16, 128
"""Of a tile: across the axis that is contiguous in memory, and along it."""


@triton.jit
def _place(p, coarse, fine):
    """Where position p of `fine` pixels lies on a grid of `coarse`, clamped to the centres of its outermost pixels."""
    return tl.minimum(tl.maximum((2 * p + 1) * coarse - fine, 0), (coarse - 1) * 2 * fine)


@triton.jit
def _corners(p, coarse, fine, SUM: tl.constexpr):
    """The coarse pixels before and behind position p, and the weight of the second."""
    place = _place(p, coarse, fine)
    below = place // (2 * fine)
    return below, tl.minimum(below + 1, coarse - 1), (place - below * 2 * fine).to(SUM) / (2 * fine)


@triton.jit
def _weight(p, pixel, coarse, fine, SUM: tl.constexpr):
    """The weight with which position p reads a coarse pixel; 0 outside the fine grid."""
    distance = tl.abs(_place(p, coarse, fine) - pixel * 2 * fine)
    return tl.where((p >= 0) & (p < fine), tl.maximum(2 * fine - distance, 0), 0).to(SUM) / (2 * fine)


@triton.jit
def _first_reader(pixel, coarse, fine):
    """No position before this one reads the coarse pixel, and none from this one plus 2 fine / coarse + 1 on."""
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
        top, bottom, fy = _corners(y, coarse_height, height, SUM)
        left, right, fx = _corners(x, coarse_width, width, SUM)
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


@triton.jit
def _address(pixel, channel, pixels, channels, LAST: tl.constexpr):
    """Of a tile within an image, channels last or first."""
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
    top, bottom, fy = _corners(pixel // width, coarse_height, height, SUM)
    left, right, fx = _corners(pixel % width, coarse_width, width, SUM)
    for dy in tl.static_range(2):
        for dx in tl.static_range(2):
            corner = (bottom if dy else top) * coarse_width + (right if dx else left)
            weight = (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
            address = _address(corner, channel, coarse_height * coarse_width, channels, LAST)
            total += weight[:, None] * tl.load(coarse + address, mask=valid, other=0.0).to(SUM)
    tl.store(out + here, total, mask=valid)


def _last(channels: int) -> tuple[int, int]:
    """Pixels and channels of a tile where memory is channels-last."""
    return NARROW, min(WIDE, triton.next_power_of_2(channels))


def _launch(
    kernel: Any, tile: tuple[int, int], pixels: int, channels: int, tensors: Sequence[Tensor], *sizes: int,
    taps: int = 1, **constants: bool,
) -> None:  # fmt: skip
    """One program per tile of so many pixels and channels of each image of the first tensor, and tap."""
    grid = (triton.cdiv(pixels, tile[0]), taps * triton.cdiv(channels, tile[1]), tensors[0].shape[0])
    double = working_dtype(*tensors) == torch.float64
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](
            *tensors, *sizes, channels, PIXELS=tile[0], CHANNELS=tile[1], SUM=tl.float64 if double else tl.float32,
            **constants,
        )  # fmt: skip


def upsample_taps(products: Sequence[Tensor], height: int, width: int) -> Tensor:
    """As `upernet.ops.fusion.upsample_taps`, for products of any float type and any D."""
    images, _, _, channels = products[0].shape
    channels //= 9
    out = products[0].new_empty(images, height, width, channels)
    working = working_dtype(*products)
    partial = out if out.dtype == working or len(products) == 1 else torch.empty_like(out, dtype=working)
    for k, product in enumerate(products):
        tensors = product.contiguous(), partial, out if k == len(products) - 1 else partial
        sizes = height, width, *product.shape[1:3]
        _launch(_upsample_taps, _last(channels), height * width, channels, tensors, *sizes, ADD=k > 0)
    return out


def upsample_taps_gradient(grad: Tensor, coarse_height: int, coarse_width: int) -> Tensor:
    """Its adjoint: grad N x H x W x D -> N x h x w x (9 D)."""
    images, height, width, channels = grad.shape
    out = grad.new_empty(images, coarse_height, coarse_width, 9 * channels)
    readers = (
        min(fine, triton.cdiv(2 * fine, coarse) + 1)
        for fine, coarse in ((height, coarse_height), (width, coarse_width))
    )
    sizes = *readers, height, width, coarse_height, coarse_width
    pixels, tensors = coarse_height * coarse_width, (grad.contiguous(), out)
    _launch(_upsample_taps_gradient, _last(channels), pixels, channels, tensors, *sizes, taps=9)
    return out


def add_resized(x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """relu(x * scale + shift) + `coarse` resized to x: what is left of `upernet.ops.fusion.lateral` after the product.

    x is N x C x H x W, coarse N x C x h x w. The result is in the type of x, and in channels-last memory if x is.
    """
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    x, coarse = (each.contiguous(memory_format=layout) for each in (x, coarse))
    out = torch.empty_like(x)
    _, channels, height, width = x.shape
    tile = _last(channels) if last else (WIDE, min(NARROW, triton.next_power_of_2(channels)))
    tensors = x, scale.contiguous(), shift.contiguous(), coarse, out
    _launch(_add_resized, tile, height * width, channels, tensors, height, width, *coarse.shape[2:], LAST=last)
    return out
