"""3x3 convolution of resized maps on a CPU with Numba: Winograd's transforms, and coarse maps at their resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from upernet.ops.conv3x3.packed_weights import PackedWeights
from upernet.ops.conv3x3.reference import apply_epilogue, split_weight, sum_of_convolutions
from upernet.ops.conv3x3.taps import channel_ranges, coarse_maps
from upernet.ops.conv3x3.taps_cpu import CoarseConvolution
from upernet.ops.conv3x3.winograd_cpu import WinogradConvolution, block_rows, tile_side
from upernet.ops.conv3x3.winograd_weights_cpu import TapPanels
from upernet.ops.eligibility import LANES
from upernet.ops.runtime.matmul import PackedMatmul, RowProduct
from upernet.ops.runtime.memory import empty


class Weights(Protocol):
    """A packed weight D x C x 3 x 3: `PackedWeights` or `TapPanels`."""

    def winograd(self, channels: Sequence[range]) -> PackedMatmul | TapPanels:
        """Return the products per tile for the input channels in these ranges."""
        ...

    def taps(self, channels: range) -> RowProduct:
        """Return the product per pixel with the nine taps for these input channels."""
        ...


def forward(
    maps: Sequence[Tensor], weight: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool, winograd: bool
) -> Tensor:
    """Compute `upernet.ops.upsample_conv3x3` without gradients, by the kernel `winograd` or else `direct`."""
    packed = PackedWeights(weight)
    if winograd:
        one = maps[0].new_ones(weight.shape[0])
        scale = one if scale is None else scale.detach().to(one).contiguous()
        shift = 0 * one if shift is None else shift.detach().to(one).contiguous()
        return convolve_packed(maps, packed, scale, shift, relu)
    fine, coarse = _fine_and_coarse(maps, winograd=False)
    channels, weights = channel_ranges(maps), split_weight(weight.detach(), maps)
    rows = _channels_last(maps)
    out = sum_of_convolutions([rows[k].permute(0, 3, 1, 2) for k in fine], [weights[k] for k in fine])
    out = out.permute(0, 2, 3, 1).contiguous()
    _add_coarse([rows[k] for k in coarse], [packed.taps(channels[k]) for k in coarse], out)
    return apply_epilogue(out.permute(0, 3, 1, 2), scale, shift, relu)


def convolve_packed(maps: Sequence[Tensor], weight: Weights, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
    """Compute `upernet.ops.upsample_conv3x3` without gradients, by the kernel `winograd`."""
    (fine, coarse), channels, rows = _fine_and_coarse(maps, winograd=True), channel_ranges(maps), _channels_last(maps)
    return convolve(
        [rows[k] for k in fine],
        weight.winograd([channels[k] for k in fine]),
        [rows[k] for k in coarse],
        [weight.taps(channels[k]) for k in coarse],
        scale,
        shift,
        relu,
    ).permute(0, 3, 1, 2)


def _fine_and_coarse(maps: Sequence[Tensor], winograd: bool) -> tuple[list[int], list[int]]:
    """Return which maps are computed at the resolution of the first one, and which at their own."""
    coarse = coarse_maps(maps, winograd)
    return [k for k in range(len(maps)) if k not in coarse], coarse


def _channels_last(maps: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().permute(0, 2, 3, 1).contiguous() for x in maps]


def convolve(
    fine: Sequence[Tensor],
    weight: PackedMatmul | TapPanels,
    coarse: Sequence[Tensor],
    taps: Sequence[RowProduct],
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve fine maps with Winograd's transforms and coarse maps at their own resolution, and add everything.

    Args:
        fine, coarse: N x h x w x C each, contiguous.
        weight, taps: the packed weights of the fine maps together, and of each coarse map.
        scale, shift: factor and summand of each output channel, D.
        relu: whether the result is rectified.
        out: what the result is added to, if there are no coarse maps.

    Returns:
        N x H x W x D, where H x W is the size of the first fine map.
    """
    images, height, width, _ = fine[0].shape
    side = tile_side(height, width, weight)
    block = block_rows(height, width, side)
    accumulate = bool(coarse) or out is not None
    if out is None:
        out = empty(images, height, width, weight.outputs, dtype=fine[0].dtype)
    for image in range(images):
        parts = [CoarseConvolution(x[image], tap, height, width, block) for x, tap in zip(coarse, taps, strict=True)]
        convolution = WinogradConvolution([x[image] for x in fine], weight, side, block)
        for top in range(0, height, block):
            for k, part in enumerate(parts):
                part.write(out[image], top, accumulate=k > 0)
            convolution.write(top, out[image], accumulate, scale, shift, relu)
    return out


def _add_coarse(coarse: Sequence[Tensor], taps: Sequence[RowProduct], out: Tensor) -> None:
    """Add the convolutions of coarse maps, N x h x w x C each, to out N x H x W x D."""
    images, height, width, _ = out.shape
    for image in range(images):
        for x, tap in zip(coarse, taps, strict=True):
            CoarseConvolution(x[image], tap, height, width, height).write(out[image], 0, accumulate=True)


def warm_up() -> None:
    """Compile the kernels, or load them from Numba's cache, and run them on four pixels."""
    weight = torch.zeros(LANES, LANES, 3, 3, dtype=torch.float32)
    packed, channels = PackedWeights(weight), range(LANES)
    x, half = torch.zeros(1, 2, 2, LANES, dtype=torch.float32), torch.zeros(1, 1, 1, LANES, dtype=torch.float32)
    zero = torch.zeros(LANES, dtype=torch.float32)
    convolve([x, half], packed.winograd([channels, channels]), [half], [packed.taps(channels)], zero, zero, True)
