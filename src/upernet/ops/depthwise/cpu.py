"""Gradient of the weight of a depthwise convolution on a CPU with Numba.

Each unit of work is a band of rows of an image. It adds up, for 16 channels at a time, the products of a row of the
result's gradient with the rows of the map that its filters reached. The sums of all units are added in the end.
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upernet.ops.runtime.memory import ScratchBuffer
from upernet.ops.runtime.simd import LANES, add, load, multiply_add, store
from upernet.ops.runtime.threads import jit, kernel, run, take

SIZE = 5
"""Height and width of the filters."""
BAND = 8
"""Rows of the result that make a unit of work."""

_sums = ScratchBuffer()


@jit
def _row(grad, at, x, start, first, last, stride, channels, sums, to):
    """Add the products of pixels `first` to `last` of a row, whose filters lie inside the map."""
    a, b, c = load(sums, to), load(sums, to + channels), load(sums, to + 2 * channels)
    d, e = load(sums, to + 3 * channels), load(sums, to + 4 * channels)
    for column in range(first, last):
        g, i = load(grad, at + column * channels), start + column * stride * channels
        a = multiply_add(g, load(x, i), a)
        b = multiply_add(g, load(x, i + channels), b)
        c = multiply_add(g, load(x, i + 2 * channels), c)
        d = multiply_add(g, load(x, i + 3 * channels), d)
        e = multiply_add(g, load(x, i + 4 * channels), e)
    store(sums, to, a)
    store(sums, to + channels, b)
    store(sums, to + 2 * channels, c)
    store(sums, to + 3 * channels, d)
    store(sums, to + 4 * channels, e)


@jit
def _border(grad, at, x, start, first, last, stride, padding, width, channels, sums, to):
    """Add the products of pixels `first` to `last` of a row, whose filters reach over the border of the map."""
    for column in range(first, last):
        g = load(grad, at + column * channels)
        for k in range(SIZE):
            if 0 <= column * stride + k - padding < width:
                i = start + (column * stride + k) * channels
                store(sums, to + k * channels, multiply_add(g, load(x, i), load(sums, to + k * channels)))


@kernel
def _weight_gradient(counter, units, bands, grad, out_size, x, in_size, channels, stride, padding, sums):
    out_height, out_width = out_size
    height, width = in_size
    # The filters of pixels from `inner` to `outer` lie inside the map.
    inner = min(out_width, -(-padding // stride))
    outer = max(inner, min(out_width, (width + padding - SIZE) // stride + 1))
    while True:
        unit = take(counter)
        if unit >= units:
            return
        image, top = unit // bands, unit % bands * BAND
        own = unit * (SIZE * SIZE + 1) * channels
        sums[own : own + (SIZE * SIZE + 1) * channels] = np.float32(0)
        for y in range(top, min(top + BAND, out_height)):
            row = (image * out_height + y) * out_width * channels
            for c in range(0, channels, LANES):
                bias = own + SIZE * SIZE * channels + c
                total = load(sums, bias)
                for column in range(out_width):
                    total = add(total, load(grad, row + column * channels + c))
                store(sums, bias, total)
                for k in range(SIZE):
                    source = y * stride + k - padding
                    if source < 0 or source >= height:
                        continue
                    start = ((image * height + source) * width - padding) * channels + c
                    to = own + k * SIZE * channels + c
                    _border(grad, row + c, x, start, 0, inner, stride, padding, width, channels, sums, to)
                    _row(grad, row + c, x, start, inner, outer, stride, channels, sums, to)
                    _border(grad, row + c, x, start, outer, out_width, stride, padding, width, channels, sums, to)


def weight_gradient(grad: Tensor, x: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weight, C x 1 x 5 x 5, and of the bias, C.

    Args:
        grad: Gradient of the result, N x C x h x w, in any memory format; channels-last is fastest.
        x: The map, N x C x H x W.
        stride, padding: Those of the convolution.
    """
    images, channels, *in_size = x.shape
    out_size = (grad.shape[2], grad.shape[3])
    bands = -(-out_size[0] // BAND)
    units = images * bands
    sums = _sums((units, SIZE * SIZE + 1, channels), torch.float32)
    rows = [each.detach().permute(0, 2, 3, 1).contiguous().numpy().reshape(-1) for each in (grad, x)]
    shapes = (out_size, rows[1], (in_size[0], in_size[1]), channels, stride, padding)
    run(_weight_gradient, units, units, bands, rows[0], *shapes, sums.numpy().reshape(-1))
    total = sums.sum(dim=0)
    return total[:-1].t().reshape(channels, 1, SIZE, SIZE).contiguous(), total[-1].clone()


def warm_up() -> None:
    """Compile the kernel, or load it from Numba's cache, and run it on one pixel."""
    one = torch.zeros(1, LANES, 1, 1)
    weight_gradient(one, one, 1, 2)
