"""Winograd's convolution (arXiv 1509.09308) on a CPU: 2.25 multiplications per output instead of 9, or 1.78.

F(4x4, 3x3) computes 4 x 4 outputs through 36 products; F(6x6, 3x3) computes 6 x 6 through 64, with larger rounding
errors.

Tiles are processed in blocks, so that their transforms (nine times the size of a block's inputs) stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from upernet.ops.conv3x3.winograd_tiles_cpu import input_transform, multiply_tiles
from upernet.ops.conv3x3.winograd_weights_cpu import TapPanels
from upernet.ops.runtime.bilinear_cpu import upsample
from upernet.ops.runtime.matmul import PackedMatmul
from upernet.ops.runtime.memory import ScratchBuffer

BLOCK_PIXELS = 8192
"""Outputs that are computed at a time, or a row of tiles if it is longer. With fewer, reading the weights dominates."""
LARGE_TILES_FROM = 0.9
"""Share of the products of small tiles up to which large ones are used; on small maps, they reach beyond the edges."""

_tiles = ScratchBuffer()


def tile_side(height: int, width: int, weight: PackedMatmul | TapPanels) -> int:
    """Return how many rows and columns of outputs a tile has: 4, or 6 if that takes clearly fewer products."""
    products = {side: -(-height // side) * -(-width // side) * (side + 2) ** 2 for side in (4, 6)}
    return 6 if isinstance(weight, TapPanels) and products[6] <= LARGE_TILES_FROM * products[4] else 4


def block_rows(height: int, width: int, side: int) -> int:
    """Return the rows of the map in one block: a multiple of `side`, such that all blocks are about equal."""
    rows, columns = -(-height // side), -(-width // side)
    blocks = -(-rows // max(1, BLOCK_PIXELS // side**2 // columns))
    return side * -(-rows // blocks)


class WinogradConvolution:
    """The 3x3 convolution of one image's maps, each upsampled to the size of the first, block by block.

    An instance must be used up before the next one is created in the same thread: their buffers are the same.

    Args:
        maps: h x w x C each, contiguous; the first one is H x W.
        weight: the packed weight, products of K (the sum of all C) to D (`PackedWeights.winograd`).
        side: rows and columns of outputs in a tile.
        block: rows of the result that are computed at a time, a multiple of `side`.
    """

    def __init__(self, maps: Sequence[Tensor], weight: PackedMatmul | TapPanels, side: int, block: int):
        self.maps, self.weight, self.side, self.block = maps, weight, side, block
        self.height, self.width = maps[0].shape[:2]
        self.columns = -(-self.width // side)
        self.values = _tiles(
            (block // side * self.columns, (side + 2) ** 2, sum(x.shape[2] for x in maps)), weight.dtype
        )
        self.upsampled = [
            None if x.shape[:2] == maps[0].shape[:2] else x.new_empty(block + 2, self.width, x.shape[2]) for x in maps
        ]

    def write(self, top: int, out: Tensor, accumulate: bool, scale: Tensor, shift: Tensor, relu: bool) -> None:
        """Write rows `top` to `top + block` of out H x W x D: result * scale + shift, rectified if `relu`.

        With `accumulate`, the values in `out` are added to the result first.
        """
        values = self.values[: -(-min(self.block, self.height - top) // self.side) * self.columns]
        channel = 0
        for x, upsampled in zip(self.maps, self.upsampled, strict=True):
            first = 0
            if upsampled is not None:
                first, stop = max(top - 1, 0), min(top + self.block + 1, self.height)
                upsample(x, self.height, first, upsampled[: stop - first])
                x = upsampled[: stop - first]
            inverse = None if isinstance(self.weight, TapPanels) else self.weight.inverse
            input_transform(x, top - first, values, channel, inverse)
            channel += x.shape[2]
        multiply_tiles(values, self.weight, out, top, accumulate, scale, shift, relu)
