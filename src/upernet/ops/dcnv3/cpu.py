"""DCNv3 on a CPU with Numba: forward and backward, float32 and float64, deterministic for any number of threads.

Each kernel processes blocks of pixels in two steps. The first computes four indices and four weights for all points of
the block, without a branch, so that LLVM vectorizes it. The second gathers and sums the channels, LANES at a time. The
points of a block are copied next to each other first, if their strides differ.

A sample outside `x`, at any distance, at infinity or at NaN, moves to -1 or to the size of `x`. There, the bilinear
weights of existing pixels are zero, and the indices of missing pixels are replaced by the nearest existing ones, so
nothing outside `x` is ever read. (A pixel that is itself infinite or NaN may affect results whose samples come near
it.)
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.runtime.dtypes import to_working_precision
from upernet.ops.runtime.memory import empty
from upernet.ops.runtime.simd import LANES, add, fill, load, multiply_add, store, total
from upernet.ops.runtime.threads import jit, kernel, run, take

BLOCK_POINTS = 1024
"""Points in a block: 32 KiB of indices and weights in float32 fit into a core's L2 cache together with the pixels."""


@jit
def _axis(location, size):
    """Return index and weight of the pixels before and after a location, and 1 or 0 for whether each has a slope."""
    one = type(location)(1)
    zero = type(location)(0)
    end = type(location)(size)
    inside = (location > -one) & (location < end)
    location = location if location > -one else -one  # NaN too
    location = location if location < end else end
    floor = np.floor(location)
    fraction = location - floor
    before = inside & (floor >= zero)
    after = inside & (floor + one < end)
    low = np.int32(floor)
    last = np.int32(size - 1)
    return (
        min(max(low, np.int32(0)), last),
        min(np.int32(low + np.int32(1)), last),
        one - fraction if before else zero,
        fraction if after else zero,
        one if before else zero,
        one if after else zero,
    )


@jit
def locate(offset, mask, grid_y, grid_x, y, x, scale, height, width, index, weight):
    """Write pixel index and weight of the four corners of each point, both 4 x points."""
    for k in range(offset.shape[0]):
        top, bottom, a, b, _, _ = _axis(y + (grid_y[k] + scale * offset[k].imag), height)
        left, right, c, d, _, _ = _axis(x + (grid_x[k] + scale * offset[k].real), width)
        a *= mask[k]
        b *= mask[k]
        weight[0, k] = a * c
        weight[1, k] = a * d
        weight[2, k] = b * c
        weight[3, k] = b * d
        top = np.int32(top * np.int32(width))
        bottom = np.int32(bottom * np.int32(width))
        index[0, k] = top + left
        index[1, k] = top + right
        index[2, k] = bottom + left
        index[3, k] = bottom + right


@jit
def _slopes(offset, mask, grid_y, grid_x, y, x, scale, height, width, products, g_offset, g_mask):
    """Write the gradients of offset and mask; `products` are those of each corner with the gradient of the output."""
    for k in range(offset.shape[0]):
        _, _, a, b, above, below = _axis(y + (grid_y[k] + scale * offset[k].imag), height)
        _, _, c, d, left, right = _axis(x + (grid_x[k] + scale * offset[k].real), width)
        p0 = products[0, k]
        p1 = products[1, k]
        p2 = products[2, k]
        p3 = products[3, k]
        g_mask[k] = a * (c * p0 + d * p1) + b * (c * p2 + d * p3)
        factor = scale * mask[k]
        dx = factor * (a * (right * p1 - left * p0) + b * (right * p3 - left * p2))
        dy = factor * (c * (below * p2 - above * p0) + d * (below * p3 - above * p1))
        g_offset[k] = complex(dx, dy)


@jit
def sample(image, index, weight, pixels, channels, groups, points, out, to):
    """Write the sums over the points of `pixels` neighboring outputs to `out` from `to` on."""
    zero = fill(image.dtype.type(0))
    per_group = channels // groups
    k = np.uint64(0)  # unsigned, because Numba looks at the sign of each index otherwise
    for pixel in range(pixels):
        for channel in range(0, channels, per_group):
            end = k + np.uint64(points)
            for c in range(channel, channel + per_group, LANES):
                upper = zero
                lower = zero
                for p in range(k, end):
                    i0, i1 = np.int64(index[0, p]) * channels + c, np.int64(index[1, p]) * channels + c
                    i2, i3 = np.int64(index[2, p]) * channels + c, np.int64(index[3, p]) * channels + c
                    upper = multiply_add(fill(weight[0, p]), load(image, i0), upper)
                    lower = multiply_add(fill(weight[2, p]), load(image, i2), lower)
                    upper = multiply_add(fill(weight[1, p]), load(image, i1), upper)
                    lower = multiply_add(fill(weight[3, p]), load(image, i3), lower)
                store(out, to + pixel * channels + c, add(upper, lower))
            k = end


@kernel
def _forward(counter, x, offset, mask, grid_y, grid_x, out, sizes, steps, scale):
    """Compute out N h w C from x N x (H W C), offset (complex) and mask (N h w) x G x P, both of any strides.

    A unit of work is an output row.
    """
    n, height, width, h, w, channels, groups, points = sizes
    origin_y, origin_x, stride_y, stride_x = steps
    per_pixel = groups * points
    block = grid_y.shape[0] // per_pixel
    index = np.empty((4, block * per_pixel), np.int32)
    weight = np.empty((4, block * per_pixel), x.dtype)
    while True:
        row = take(counter)
        if row >= n * h:
            return
        image = x[row // h]
        y = x.dtype.type(origin_y + row % h * stride_y)
        for start in range(0, w, block):
            stop = min(start + block, w)
            o = np.ascontiguousarray(offset[row * w + start : row * w + stop]).reshape(-1)
            m = np.ascontiguousarray(mask[row * w + start : row * w + stop]).reshape(-1)
            left = x.dtype.type(origin_x + start * stride_x)
            locate(o, m, grid_y, grid_x, y, left, scale, height, width, index, weight)
            sample(image, index, weight, stop - start, channels, groups, points, out, (row * w + start) * channels)


@jit
def _copy_group(source, at, step, target, to, to_step, pixels, channels):
    """Copy `channels` neighboring numbers of each pixel; pixels begin `step` and `to_step` after another."""
    for pixel in range(pixels):
        for c in range(0, channels, LANES):
            store(target, to + pixel * to_step + c, load(source, at + pixel * step + c))


@kernel
def _backward(counter, grad, x, offset, mask, grid_y, grid_x, g_x, g_offset, g_mask, sizes, steps, scale):
    """Write all gradients; a unit of work is a group of an image, whose channels of g_x belong to no other unit.

    These channels are copied next to each other first: in a wide map, they would compete for a few lines of the cache.
    """
    n, height, width, h, w, channels, groups, points = sizes
    origin_y, origin_x, stride_y, stride_x = steps
    per_group = channels // groups
    block = grid_y.shape[0] // points
    index = np.empty((4, block * points), np.int32)
    weight = np.empty((4, block * points), x.dtype)
    products = np.empty((4, block * points), x.dtype)
    values, sums = np.empty((2, height * width * per_group), x.dtype)
    zero = fill(x.dtype.type(0))
    while True:
        unit = take(counter)
        if unit >= n * groups:
            return
        group, number = unit // n, unit % n
        first = (number * height * width * groups + group) * per_group
        _copy_group(x, first, channels, values, 0, per_group, height * width, per_group)
        sums[:] = 0
        for row in range(number * h, (number + 1) * h):
            y = x.dtype.type(origin_y + row % h * stride_y)
            for start in range(0, w, block):
                stop = min(start + block, w)
                left = x.dtype.type(origin_x + start * stride_x)
                # the points of one group are scattered over the row: gather them
                o = np.ascontiguousarray(offset[row, start:stop, group]).reshape(-1)
                m = np.ascontiguousarray(mask[row, start:stop, group]).reshape(-1)
                locate(o, m, grid_y, grid_x, y, left, scale, height, width, index, weight)
                k = np.uint64(0)
                for pixel in range(row * w + start, row * w + stop):
                    for p in range(k, k + np.uint64(points)):
                        b0, b1 = np.int64(index[0, p]) * per_group, np.int64(index[1, p]) * per_group
                        b2, b3 = np.int64(index[2, p]) * per_group, np.int64(index[3, p]) * per_group
                        t0 = t1 = t2 = t3 = zero
                        for c in range(0, per_group, LANES):
                            g = load(grad, (pixel * groups + group) * per_group + c)
                            t0 = multiply_add(g, load(values, b0 + c), t0)
                            t1 = multiply_add(g, load(values, b1 + c), t1)
                            t2 = multiply_add(g, load(values, b2 + c), t2)
                            t3 = multiply_add(g, load(values, b3 + c), t3)
                            store(sums, b0 + c, multiply_add(fill(weight[0, p]), g, load(sums, b0 + c)))
                            store(sums, b1 + c, multiply_add(fill(weight[1, p]), g, load(sums, b1 + c)))
                            store(sums, b2 + c, multiply_add(fill(weight[2, p]), g, load(sums, b2 + c)))
                            store(sums, b3 + c, multiply_add(fill(weight[3, p]), g, load(sums, b3 + c)))
                        products[0, p] = total(t0)
                        products[1, p] = total(t1)
                        products[2, p] = total(t2)
                        products[3, p] = total(t3)
                    k += np.uint64(points)
                g_o = np.empty_like(o)
                g_m = np.empty_like(m)
                _slopes(o, m, grid_y, grid_x, y, left, scale, height, width, products, g_o, g_m)
                g_offset[row, start:stop, group] = g_o.reshape(stop - start, points)
                g_mask[row, start:stop, group] = g_m.reshape(stop - start, points)
        _copy_group(sums, 0, per_group, g_x, first, channels, height * width, per_group)


@functools.lru_cache(maxsize=256)
def grid(s: Geometry, groups: int, width: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return vertical and horizontal position, without offset, of each point of a block of neighboring outputs."""
    displacements = s.offset_scale * np.array(s.displacements, dtype=np.float64)
    pixels = min(width, max(1, BLOCK_POINTS // (groups * len(displacements))))
    place = np.tile(displacements, (pixels, groups, 1, 1))
    place[..., 1] += s.stride[1] * np.arange(pixels)[:, None, None]
    place = place.reshape(-1, 2).astype(dtype)
    return np.ascontiguousarray(place[:, 0]), np.ascontiguousarray(place[:, 1])


def _pad_groups(x: Tensor, groups: int) -> Tensor:
    """Return N x H x W x (G D), contiguous, with each group padded with zeros to whole vectors."""
    per_group = x.shape[-1] // groups
    if per_group % LANES:
        x = F.pad(x.unflatten(-1, (groups, per_group)), (0, -per_group % LANES)).flatten(-2)
    return x.contiguous()


def _unpad_groups(x: Tensor, groups: int, channels: int) -> Tensor:
    if x.shape[-1] == channels:
        return x
    return x.unflatten(-1, (groups, -1))[..., : channels // groups].flatten(-2).contiguous()


def _points(values: Tensor, *shape: int) -> np.ndarray:
    """Return `values` in `shape`, without a copy if the values of a group are neighbors."""
    values = values.reshape(*shape, values.numel() // math.prod(shape) if values.numel() else 0)
    return (values if values.stride(-1) == 1 else values.contiguous()).numpy()


def _pairs(offset: Tensor, *shape: int) -> np.ndarray:
    """Return (dx, dy) as complex numbers, which LLVM loads as two neighbors; otherwise as `_points`."""
    array = _points(offset, *shape)
    return array.view(np.complex64 if array.dtype == np.float32 else np.complex128)


def forward(x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> Tensor:
    """Compute `upernet.ops.dcnv3` in working precision."""
    channels = x.shape[-1]
    x, offset, mask = to_working_precision(x.detach(), offset.detach(), mask.detach())
    x = _pad_groups(x, s.groups)
    (n, height, width, padded), (h, w) = x.shape, offset.shape[1:3]
    out = empty(n, h, w, padded, dtype=x.dtype)
    values = x.flatten(1).numpy()
    run(
        _forward,
        n * h,
        values,
        _pairs(offset, n * h * w, s.groups),
        _points(mask, n * h * w, s.groups),
        *grid(s, s.groups, w, values.dtype),
        out.numpy().reshape(-1),
        (n, height, width, h, w, padded, s.groups, len(s.displacements)),
        (*s.origin, *s.stride),
        values.dtype.type(s.offset_scale),
    )
    return _unpad_groups(out, s.groups, channels)


def backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, s: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, offset and mask in working precision."""
    channels, points = x.shape[-1], len(s.displacements)
    grad, x, offset, mask = to_working_precision(grad.detach(), x.detach(), offset.detach(), mask.detach())
    grad, x = _pad_groups(grad, s.groups), _pad_groups(x, s.groups)
    (n, height, width, padded), (h, w) = x.shape, offset.shape[1:3]
    g_x = torch.empty_like(x)
    g_offset, g_mask = offset.new_empty(offset.shape), mask.new_empty(mask.shape)
    values = x.numpy().reshape(-1)
    by_group = (n * h, w, s.groups)
    run(
        _backward,
        n * s.groups,
        grad.numpy().reshape(-1),
        values,
        _pairs(offset, *by_group),
        _points(mask, *by_group),
        *grid(s, 1, w, values.dtype),
        g_x.numpy().reshape(-1),
        _pairs(g_offset, *by_group),
        _points(g_mask, *by_group),
        (n, height, width, h, w, padded, s.groups, points),
        (*s.origin, *s.stride),
        values.dtype.type(s.offset_scale),
    )
    return _unpad_groups(g_x, s.groups, channels), g_offset, g_mask


def warm_up() -> None:
    """Compile the forward kernel, or load it from Numba's cache, and run it on one pixel."""
    x = torch.zeros(1, 2, 1, 1, dtype=torch.float32)
    forward(x, torch.zeros(1, 2, 1, 2, dtype=torch.float32), x, Geometry((1, 1), (1, 1), (0, 0), (1, 1), 1, 1.0, False))
