"""3x3 convolution by Winograd's F(4 x 4, 3 x 3) (arXiv 1509.09308): 2.25 multiplications per output instead of 9.

Tiles go through in blocks, so that their transforms (nine times the size of a block's inputs) stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upernet.ops.fusion_numba import add_upsampled, axis, heighten, upsample, widen
from upernet.ops.fusion_weights import Forms
from upernet.ops.lanes import LANES
from upernet.ops.products_numba import Products
from upernet.ops.scratch import empty, scratch
from upernet.ops.winograd_numba import input_transform, output_transform

BLOCK_TILES = 256
"""Tiles that are multiplied at a time, if rows of tiles are not longer. Fewer, and reading the weights takes longer."""
GEMM_ROWS = 256
"""Pixels of a coarse map that are multiplied at a time, at least, for the same reason."""
LATERAL_PIXELS = 1024
"""Pixels that are multiplied at a time before the coarser map is added: with 512 channels, 2 MiB."""


def block_rows(height: int, width: int) -> int:
    """Rows of the map that make one block: a multiple of 4, and all blocks about the same."""
    rows, columns = -(-height // 4), -(-width // 4)
    blocks = -(-rows // max(1, BLOCK_TILES // columns))
    return 4 * -(-rows // blocks)


class Winograd:
    """Convolution of one image's maps, each brought to the size of the first (which is a copy where it has that size).

    Args:
        maps: h x w x C each, contiguous; the first H x W.
        weight: 36 products of K, the sum of all C, to D (`fusion_weights.Forms.winograd`).
        block: rows of the map to go through at a time.
    """

    def __init__(self, maps: Sequence[Tensor], weight: Products, block: int):
        self.maps, self.weight, self.block = maps, weight, block
        self.height, self.width = maps[0].shape[:2]
        tiles = block // 4 * -(-self.width // 4)
        self.values = scratch("tiles", (tiles, 36, sum(x.shape[2] for x in maps)), weight.dtype)
        self.products = scratch("products", (tiles, 36, weight.outputs), maps[0].dtype)
        self.upsampled = [
            None if x.shape[:2] == maps[0].shape[:2] else x.new_empty(block + 2, self.width, x.shape[2]) for x in maps
        ]

    def __call__(self, top: int, out: Tensor, onto: bool, scale: Tensor, shift: Tensor, relu: bool) -> None:
        """Rows `top` to `top + block` of out H x W x D: (result [+ out if `onto`]) * scale + shift, rectified."""
        channel = 0
        for x, upsampled in zip(self.maps, self.upsampled, strict=True):
            first = 0
            if upsampled is not None:
                first, stop = max(top - 1, 0), min(top + self.block + 1, self.height)
                upsample(x, self.height, first, upsampled[: stop - first])
                x = upsampled[: stop - first]
            input_transform(x, top - first, self.values, channel)
            channel += x.shape[2]
        output_transform(self.weight(self.values, self.products), out, top, onto, scale, shift, relu)


class Coarse:
    """A coarser map's part of one image's convolution, by products at its own resolution, some rows at a time.

    Products are computed and widened to `width` once per row, and kept in a ring as long as rows of the result need
    them.

    Args:
        x: h x w x C, contiguous.
        taps: one product of C to 9 D (`Forms.taps`).
        block: rows of the fine map to go through at a time.
    """

    def __init__(self, x: Tensor, taps: Products, height: int, width: int, block: int):
        self.x, self.taps, self.height, self.block = x, taps, height, block
        self.done = 0
        self.at_least = min(x.shape[0], -(-GEMM_ROWS // x.shape[1]))
        needed = max(last - first for first, last in map(self._needed, range(0, height, block)))
        self.ring = x.new_empty(min(x.shape[0], needed + self.at_least), 3, width, taps.outputs // 9)

    def _needed(self, top: int) -> tuple[int, int]:
        """First and last row of x that rows `top` to `top + block` of the result depend on."""
        y_axis = axis(self.x.shape[0], self.height, self.x.dtype)
        return y_axis.below[max(top - 1, 0)].item(), y_axis.above[min(top + self.block, self.height - 1)].item()

    def add(self, out: Tensor, top: int, onto: bool) -> None:
        """Write, or add if `onto`, to rows `top` to `top + block` of out H x W x D. To be called from top to bottom."""
        last = self._needed(top)[1]
        while self.done <= last:
            new = self.x[self.done : self.done + self.at_least]
            products = scratch("products", (*new.shape[:2], self.taps.outputs), new.dtype)
            self.taps(new.flatten(0, 1)[:, None].to(self.taps.dtype), products.flatten(0, 1)[:, None])
            widen(products, self.ring, self.done)
            self.done += new.shape[0]
        heighten(self.ring, self.x.shape[0], out, top, min(self.block, self.height - top), onto)


def convolve(
    fine: Sequence[Tensor],
    weight: Products,
    coarse: Sequence[Tensor],
    taps: Sequence[Products],
    scale: Tensor,
    shift: Tensor,
    relu: bool,
) -> Tensor:
    """The whole operator: fine maps by Winograd's transforms, coarse ones at their own resolution.

    Args:
        fine, coarse: N x h x w x C each, contiguous.
        weight, taps: the forms of the weight that belong to them.

    Returns:
        N x H x W x D, H x W the size of the first fine map.
    """
    images, height, width, _ = fine[0].shape
    block = block_rows(height, width)
    out = empty(images, height, width, weight.outputs, dtype=fine[0].dtype)
    for image in range(images):
        sources = [Coarse(x[image], form, height, width, block) for x, form in zip(coarse, taps, strict=True)]
        convolution = Winograd([x[image] for x in fine], weight, block)
        for top in range(0, height, block):
            for k, source in enumerate(sources):
                source.add(out[image], top, onto=k > 0)
            convolution(top, out[image], bool(sources), scale, shift, relu)
    return out


def add_coarse(coarse: Sequence[Tensor], taps: Sequence[Products], out: Tensor) -> None:
    """Add the convolutions of coarse maps N x h x w x C each, resized, to out N x H x W x D."""
    images, height, width, _ = out.shape
    for image in range(images):
        for x, form in zip(coarse, taps, strict=True):
            Coarse(x[image], form, height, width, height).add(out[image], 0, onto=True)


def lateral(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """As `upernet.ops.fusion.lateral`: x N x H x W x C, weight D x C, coarse N x h x w x D -> N x H x W x D."""
    images, height, width, _ = x.shape
    product = Products(weight[None])
    out = empty(images, height, width, len(weight), dtype=x.dtype)
    rows = max(1, LATERAL_PIXELS // width)
    for image in range(images):
        for top in range(0, height, rows):
            part = out[image, top : top + rows]
            base = scratch("products", tuple(part.shape), x.dtype)
            product(x[image, top : top + rows].flatten(0, 1)[:, None].to(product.dtype), base.flatten(0, 1)[:, None])
            add_upsampled(base, scale, shift, coarse[image], height, top, part)
    return out


def try_one_pixel() -> None:
    """Compile, or load, the kernels, and run them."""
    weight = torch.zeros(LANES, LANES, 3, 3, dtype=torch.float32)
    forms, channels = Forms(weight), range(LANES)
    x, half = torch.zeros(1, 2, 2, LANES, dtype=torch.float32), torch.zeros(1, 1, 1, LANES, dtype=torch.float32)
    zero = torch.zeros(LANES, dtype=torch.float32)
    convolve([x, half], forms.winograd([channels, channels]), [half], [forms.taps(channels)], zero, zero, True)
