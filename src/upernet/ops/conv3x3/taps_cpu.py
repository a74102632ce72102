"""Tap maps on a CPU with Numba: upsampling with shifts, and its adjoint; separable, LANES channels at a time.

`taps.py` defines tap maps. Fine pixel i takes tap t from position p = i + t - 1 of the fine grid, if that is inside the
map. Along an axis, position p reads the coarse pixels `below[p]` and `above[p]` with weights `1 - part[p]` and
`part[p]` (`runtime.bilinear.Axis`). Interpolation runs over columns first, into a ring of rows, and over rows after
that.

(A coarse pixel that is infinite or NaN may affect results that only come near it.)
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from upernet.ops.runtime.bilinear import axis
from upernet.ops.runtime.bilinear_cpu import flat
from upernet.ops.runtime.matmul import RowProduct
from upernet.ops.runtime.memory import ScratchBuffer
from upernet.ops.runtime.simd import LANES, fill, load, multiply_add, store
from upernet.ops.runtime.threads import jit, kernel, run, take

GEMM_ROWS = 256
"""Pixels of a coarse map that are multiplied at a time, at least: with fewer, reading the weights takes longer."""

_products = ScratchBuffer()


@jit
def _taps_at(i, size, part):
    """Return positions i - 1 and i + 1, clamped to the grid, and two weights each for i - 1, i and i + 1."""
    one = type(part[0])(1)
    zero = type(part[0])(0)
    before, after = max(i - 1, 0), min(i + 1, size - 1)
    first, last = one if i > 0 else zero, one if i + 1 < size else zero
    p0, p1, p2 = part[before], part[i], part[after]
    return before, after, first * (one - p0), first * p0, one - p1, p1, last * (one - p2), last * p2


@jit
def _weighted_sum_of_6(source, at, weights, c):
    """Return the sum of six vectors at `at[k] + c` of `source`, times their weights."""
    a, b, d, e, f, g = weights
    total = multiply_add(
        b, load(source, at[1] + c), multiply_add(a, load(source, at[0] + c), fill(source.dtype.type(0)))
    )
    total = multiply_add(e, load(source, at[3] + c), multiply_add(d, load(source, at[2] + c), total))
    return multiply_add(g, load(source, at[5] + c), multiply_add(f, load(source, at[4] + c), total))


@kernel
def _interpolate_columns(
    counter, taps, coarse_width, rows, ring, ring_rows, first_row, width, channels, below, above, part
):
    while True:
        unit = take(counter)
        if unit >= 3 * rows:
            return
        r, ty = unit // 3, unit % 3
        to = ((first_row + r) % ring_rows * 3 + ty) * width * channels
        for x in range(width):
            left, right, a, b, d, e, f, g = _taps_at(x, width, part)
            weights = (fill(a), fill(b), fill(d), fill(e), fill(f), fill(g))
            row = r * coarse_width
            at = (
                ((row + below[left]) * 9 + 3 * ty) * channels,
                ((row + above[left]) * 9 + 3 * ty) * channels,
                ((row + below[x]) * 9 + 3 * ty + 1) * channels,
                ((row + above[x]) * 9 + 3 * ty + 1) * channels,
                ((row + below[right]) * 9 + 3 * ty + 2) * channels,
                ((row + above[right]) * 9 + 3 * ty + 2) * channels,
            )
            for c in range(0, channels, LANES):
                store(ring, to + c, _weighted_sum_of_6(taps, at, weights, c))
            to += channels


@kernel
def _interpolate_rows(counter, ring, ring_rows, out, rows, first_row, height, row_size, accumulate, below, above, part):
    one = fill(part.dtype.type(1))
    while True:
        r = take(counter)
        if r >= rows:
            return
        y = first_row + r
        up, down, a, b, d, e, f, g = _taps_at(y, height, part)
        weights = (fill(a), fill(b), fill(d), fill(e), fill(f), fill(g))
        at = (
            (below[up] % ring_rows * 3) * row_size,
            (above[up] % ring_rows * 3) * row_size,
            (below[y] % ring_rows * 3 + 1) * row_size,
            (above[y] % ring_rows * 3 + 1) * row_size,
            (below[down] % ring_rows * 3 + 2) * row_size,
            (above[down] % ring_rows * 3 + 2) * row_size,
        )
        if accumulate:
            for c in range(0, row_size, LANES):
                to = y * row_size + c
                store(out, to, multiply_add(one, load(out, to), _weighted_sum_of_6(ring, at, weights, c)))
        else:
            for c in range(0, row_size, LANES):
                store(out, y * row_size + c, _weighted_sum_of_6(ring, at, weights, c))


@kernel
def _interpolate_rows_adjoint(counter, grad, images, height, row_size, rows, coarse, below, above, part):
    one = part.dtype.type(1)
    zero = fill(part.dtype.type(0))
    while True:
        unit = take(counter)
        if unit >= 3 * images * coarse:
            return
        ty, r, image = unit % 3, unit // 3 % coarse, unit // 3 // coarse
        to = unit * row_size
        for c in range(0, row_size, LANES):
            store(rows, to + c, zero)
        for p in range(max(0, ty - 1), min(height, height + ty - 1)):
            weight = type(part[p])(0)
            if below[p] == r:
                weight += one - part[p]
            if above[p] == r:
                weight += part[p]
            if weight != 0:
                factor = fill(weight)
                at = (image * height + p - ty + 1) * row_size
                for c in range(0, row_size, LANES):
                    store(rows, to + c, multiply_add(factor, load(grad, at + c), load(rows, to + c)))


@kernel
def _interpolate_columns_adjoint(counter, rows, count, width, channels, taps, coarse, below, above, part):
    one = part.dtype.type(1)
    zero = fill(part.dtype.type(0))
    while True:
        unit = take(counter)
        if unit >= count:
            return
        ty, row = unit % 3, unit // 3
        for pixel in range(row * coarse, (row + 1) * coarse):
            for c in range((pixel * 9 + 3 * ty) * channels, (pixel * 9 + 3 * ty + 3) * channels, LANES):
                store(taps, c, zero)
        for p in range(width):
            for tx in range(max(0, p + 2 - width), min(3, p + 2)):
                at = (unit * width + p - tx + 1) * channels
                low = ((row * coarse + below[p]) * 9 + 3 * ty + tx) * channels
                high = ((row * coarse + above[p]) * 9 + 3 * ty + tx) * channels
                for_low, for_high = fill(one - part[p]), fill(part[p])
                for c in range(0, channels, LANES):
                    value = load(rows, at + c)
                    store(taps, low + c, multiply_add(for_low, value, load(taps, low + c)))
                    store(taps, high + c, multiply_add(for_high, value, load(taps, high + c)))


def interpolate_columns(taps: Tensor, ring: Tensor, first_row: int) -> None:
    """Interpolate along x: row r of taps R x w x (9 D) -> row `(first_row + r) % S` of ring S x 3 x W x D."""
    rows, coarse_width = taps.shape[:2]
    ring_rows, _, width, channels = ring.shape
    x_axis = axis(coarse_width, width, taps.dtype)
    sizes = (ring_rows, first_row, width, channels)
    run(
        _interpolate_columns,
        3 * rows,
        flat(taps),
        coarse_width,
        rows,
        flat(ring),
        *sizes,
        *x_axis,
    )


def interpolate_rows(
    ring: Tensor, coarse_height: int, out: Tensor, first_row: int, rows: int, accumulate: bool
) -> None:
    """Interpolate along y: ring S x 3 x W x D -> rows `first_row` to `first_row + rows` of out H x W x D.

    With `accumulate`, the values are added to those in `out`.
    """
    height, width, channels = out.shape
    y_axis = axis(coarse_height, height, out.dtype)
    sizes = (rows, first_row, height, width * channels, accumulate)
    run(_interpolate_rows, rows, flat(ring), ring.shape[0], flat(out), *sizes, *y_axis)


def upsample_taps(products: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Compute `taps.upsample_taps`, for float32 or float64."""
    images, _, _, channels = products[0].shape
    out = products[0].new_empty(images, height, width, channels // 9)
    for k, product in enumerate(products):
        product = product.detach().contiguous()
        ring = product.new_empty(product.shape[1], 3, width, channels // 9)
        for image in range(images):
            interpolate_columns(product[image], ring, 0)
            interpolate_rows(ring, product.shape[1], out[image], 0, height, accumulate=k > 0)
    return out


def upsample_taps_gradient(grad: Tensor, coarse_height: int, coarse_width: int) -> Tensor:
    """Compute the adjoint of `upsample_taps` for one tap map: grad N x H x W x D -> N x h x w x (9 D)."""
    grad = grad.detach().contiguous()
    images, height, width, channels = grad.shape
    rows = grad.new_empty(images, coarse_height, 3, width, channels)
    y_axis, x_axis = axis(coarse_height, height, grad.dtype), axis(coarse_width, width, grad.dtype)
    count = 3 * images * coarse_height
    sizes = (images, height, width * channels)
    run(
        _interpolate_rows_adjoint,
        count,
        flat(grad),
        *sizes,
        flat(rows),
        coarse_height,
        *y_axis,
    )
    taps = grad.new_empty(images, coarse_height, coarse_width, 9 * channels)
    sizes = (count, width, channels)
    run(
        _interpolate_columns_adjoint,
        count,
        flat(rows),
        *sizes,
        flat(taps),
        coarse_width,
        *x_axis,
    )
    return taps


class CoarseConvolution:
    """The 3x3 convolution of one image's coarse map at its own resolution, resized to the fine map row by row.

    The tap map is computed and interpolated along x once per coarse row, and each row is kept in a ring as long as rows
    of the result need it.

    Args:
        x: h x w x C, contiguous.
        taps: the packed weight, C -> 9 D (`PackedWeights.taps`).
        height, width: size of the fine map.
        block: rows of the fine map that are computed at a time.
    """

    def __init__(self, x: Tensor, taps: RowProduct, height: int, width: int, block: int):
        self.x, self.taps, self.height, self.block = x, taps, height, block
        self.done = 0
        self.rows_per_step = min(x.shape[0], -(-GEMM_ROWS // x.shape[1]))
        needed = max(last - first for first, last in map(self._needed, range(0, height, block)))
        self.ring = x.new_empty(min(x.shape[0], needed + self.rows_per_step), 3, width, taps.outputs // 9)

    def _needed(self, top: int) -> tuple[int, int]:
        """Return the first and last row of x that rows `top` to `top + block` of the result depend on."""
        y_axis = axis(self.x.shape[0], self.height, self.x.dtype)
        return y_axis.below[max(top - 1, 0)].item(), y_axis.above[min(top + self.block, self.height - 1)].item()

    def write(self, out: Tensor, top: int, accumulate: bool) -> None:
        """Write rows `top` to `top + block` of out H x W x D, or add to them. Call this from top to bottom."""
        last = self._needed(top)[1]
        while self.done <= last:
            new = self.x[self.done : self.done + self.rows_per_step]
            products = _products((*new.shape[:2], self.taps.outputs), new.dtype)
            self.taps(new.flatten(0, 1)[:, None].to(self.taps.dtype), products.flatten(0, 1)[:, None])
            interpolate_columns(products, self.ring, self.done)
            self.done += new.shape[0]
        rows = min(self.block, self.height - top)
        interpolate_rows(self.ring, self.x.shape[0], out, top, rows, accumulate)
