"""The 3x3 convolutions and lateral connections of the decoder in int8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upernet.ops.conv3x3.cpu import convolve
from upernet.ops.conv3x3.taps import channel_ranges, coarse_maps
from upernet.ops.conv3x3.winograd_tiles_cpu import MIDDLE
from upernet.ops.conv3x3.winograd_weights_cpu import tap_panels, transform_panels
from upernet.ops.dispatch import Choice, decide
from upernet.ops.lateral.cpu import add_to_coarse
from upernet.ops.packed.linear import PackedLinear, round_weight
from upernet.ops.packed.ranges import Range, TileRange
from upernet.ops.runtime.matmul import PackedMatmul

CHOICE = Choice("packed", "int8 weights were packed when the network was prepared")


class Int8Conv3x3:
    """`upsample_conv3x3` for maps with as many channels as those that were observed.

    Maps as large as the first one go through Winograd's transforms in float32, and each of the 36 positions of a tile
    has its own range. Coarser maps are multiplied at their own resolution.

    Args:
        weight: D x (C_1 + C_2 + ...) x 3 x 3, float32, with D and all C multiples of 16.
        maps: The range of each map.
        tiles: The ranges of each map's tiles.
    """

    def __init__(self, weight: Tensor, maps: Sequence[Range], tiles: Sequence[TileRange]):
        self.weight, self.maps, self.tiles = weight.detach().float(), maps, tiles
        self._winograd: dict[tuple[range, ...], PackedMatmul] = {}
        self._taps: dict[range, PackedLinear] = {}

    def __call__(self, maps: Sequence[Tensor], scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
        """Return the convolution of maps N x C_k x h_k x w_k, times `scale` plus `shift`, rectified if `relu`."""
        decide("upsample_conv3x3", CHOICE, *maps, self.weight)
        coarse, channels = coarse_maps(maps, winograd=True), channel_ranges(maps)
        fine = [k for k in range(len(maps)) if k not in coarse]
        rows = [x.detach().permute(0, 2, 3, 1).contiguous() for x in maps]
        return convolve(
            [rows[k] for k in fine],
            self._for_tiles([channels[k] for k in fine], [self.tiles[k] for k in fine]),
            [rows[k] for k in coarse],
            [self._for_taps(channels[k], self.maps[k]) for k in coarse],
            scale.detach().contiguous(),
            shift.detach().contiguous(),
            relu,
        ).permute(0, 3, 1, 2)

    def _for_tiles(self, channels: Sequence[range], ranges: Sequence[TileRange]) -> PackedMatmul:
        key = tuple(channels)
        if key not in self._winograd:
            self._winograd[key] = pack_tiles(
                self.weight, channels, torch.stack([each.steps for each in ranges]).amax(0)
            )
        return self._winograd[key]

    def _for_taps(self, channels: range, inputs: Range) -> PackedLinear:
        if channels not in self._taps:
            taps = self.weight[:, channels.start : channels.stop].permute(2, 3, 0, 1).flatten(0, 2)
            self._taps[channels] = PackedLinear(taps, None, inputs)
        return self._taps[channels]


class Int8Lateral:
    """`lateral` in int8.

    Args:
        weight: D x C x 1 x 1, D a multiple of 16.
        inputs: The range of the map that is convolved.
    """

    def __init__(self, weight: Tensor, inputs: Range):
        self.linear = PackedLinear(weight.flatten(1), None, inputs)

    def __call__(self, x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
        """Return relu(conv2d(x) * scale + shift) plus `coarse` resized to `x`: N x D x H x W."""
        return add_to_coarse(self.linear, x, scale, shift, coarse)


def pack_tiles(weight: Tensor, channels: Sequence[range], steps: Tensor) -> PackedMatmul:
    """Return the 36 products of Winograd's tiles with these input channels of a weight D x C x 3 x 3.

    Args:
        weight: The weight.
        channels: The input channels, in the order of the tiles.
        steps: Steps of the transformed inputs, 36.
    """
    panels = transform_panels(tap_panels(weight).winograd(channels))  # 36 x P x K x PANEL
    rounded, weight_steps = round_weight(panels.transpose(2, 3))  # 36 x P x PANEL x K
    quadruples = rounded.unflatten(3, (-1, 4)).transpose(2, 3).contiguous()
    matmul = PackedMatmul.from_panels(quadruples, weight.shape[0])
    matmul.base = -MIDDLE * rounded.sum(3, dtype=torch.int32).flatten(1)
    matmul.factors = (weight_steps[..., 0].flatten(1) * steps[:, None]).float()
    matmul.inverse = (1 / steps).float()
    return matmul
