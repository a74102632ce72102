"""Winograd's F(4x4, 3x3) (arXiv 1509.09308) on a CPU: 2.25 multiplications per output instead of 9.

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

BLOCK_TILES = 256
"""Tiles that are multiplied at a time, or a row of tiles if it is longer. With fewer, reading the weights dominates."""

_tiles = ScratchBuffer()


def block_rows(height: int, width: int) -> int:
    """Return the rows of the map in one block: a multiple of 4, such that all blocks are about equal."""
    rows, columns = -(-height // 4), -(-width // 4)
    blocks = -(-rows // max(1, BLOCK_TILES // columns))
    return 4 * -(-rows // blocks)


class WinogradConvolution:
    """The 3x3 convolution of one image's maps, each upsampled to the size of the first, block by block.

    An instance must be used up before the next one is created in the same thread: their buffers are the same.

    Args:
        maps: h x w x C each, contiguous; the first one is H x W.
        weight: the packed weight, 36 products of K (the sum of all C) to D (`PackedWeights.winograd`).
        block: rows of the result that are computed at a time.
    """

    def __init__(self, maps: Sequence[Tensor], weight: PackedMatmul | TapPanels, block: int):
        self.maps, self.weight, self.block = maps, weight, block
        self.height, self.width = maps[0].shape[:2]
        tiles = block // 4 * -(-self.width // 4)
        self.values = _tiles((tiles, 36, sum(x.shape[2] for x in maps)), weight.dtype)
        self.upsampled = [
            None if x.shape[:2] == maps[0].shape[:2] else x.new_empty(block + 2, self.width, x.shape[2]) for x in maps
        ]

    def write(self, top: int, out: Tensor, accumulate: bool, scale: Tensor, shift: Tensor, relu: bool) -> None:
        """Write rows `top` to `top + block` of out H x W x D: result * scale + shift, rectified if `relu`.

        With `accumulate`, the values in `out` are added to the result first.
        """
        channel = 0
        for x, upsampled in zip(self.maps, self.upsampled, strict=True):
            first = 0
            if upsampled is not None:
                first, stop = max(top - 1, 0), min(top + self.block + 1, self.height)
                upsample(x, self.height, first, upsampled[: stop - first])
                x = upsampled[: stop - first]
            inverse = None if isinstance(self.weight, TapPanels) else self.weight.inverse
            input_transform(x, top - first, self.values, channel, inverse)
            channel += x.shape[2]
        multiply_tiles(self.values, self.weight, out, top, accumulate, scale, shift, relu)
