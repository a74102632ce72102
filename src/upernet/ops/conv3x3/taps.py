"""Tap maps: the 3x3 convolution of a coarse map, computed at its own resolution and then upsampled.

A 3x3 convolution is a sum of nine shifted 1x1 convolutions, and 1x1 convolutions commute with bilinear resizing. The
*tap map* of a coarse map, h x w x 3 x 3 x D, holds the products of each pixel with the nine taps of the kernel.
`upsample_taps` resizes tap maps to the fine grid, shifts them and adds them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.dispatch import override
from upernet.ops.eligibility import LANES
from upernet.ops.linear import linear
from upernet.ops.registration import define_operator


def coarse_maps(maps: Sequence[Tensor], winograd: bool) -> list[int]:
    """Return which maps need fewer products at their own resolution than at the first map's.

    If the others go through Winograd's transforms, equal numbers count as well, because tap weights take a quarter of
    the memory.
    """
    fine = maps[0].shape[2] * maps[0].shape[3]
    sizes = [x.shape[2] * x.shape[3] for x in maps]
    return [k for k, size in enumerate(sizes) if (4 * size <= fine if winograd else size < fine)]


def channel_ranges(maps: Sequence[Tensor]) -> list[range]:
    """Return the input channels of the weight that belong to each map."""
    stops = list(accumulate(x.shape[1] for x in maps))
    return [range(stop - x.shape[1], stop) for x, stop in zip(maps, stops, strict=True)]


def kernel_language(x: Tensor) -> str:
    """Return `numba` or `triton`: what the tap kernels for this map are written in."""
    return override("upsample_taps") or ("triton" if x.device.type == "cuda" else "numba")


def tap_map(x: Tensor, taps: Tensor) -> Tensor:
    """Multiply each pixel of x N x C x h x w with the taps of a weight, (9 D) x C: N x h x w x (9 D)."""
    if kernel_language(x) == "triton":  # as a convolution, it rounds to TF32 where convolutions do
        return F.conv2d(x.contiguous(memory_format=torch.channels_last), taps[:, :, None, None]).permute(0, 2, 3, 1)
    return linear(x.permute(0, 2, 3, 1), taps)


def upsample_taps(taps: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Resize, shift and add tap maps.

    Args:
        taps: N x h_k x w_k x (9 D) each, contiguous, taps in row-major order; on a GPU of any float dtype, on a CPU
            float32 or float64 with D a multiple of 16.
        height, width: size of the result.

    Returns:
        N x height x width x D.
    """
    return torch.ops.upernet.upsample_taps(list(taps), height, width)


def upsample_taps_gradients(grad: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the gradients of tap maps of these heights and widths from that of their `upsample_taps`."""
    return [torch.ops.upernet.upsample_taps_gradient(grad, *size) for size in sizes]


def _kernels(language: str) -> ModuleType:
    if language == "numba":
        from upernet.ops.conv3x3 import taps_cpu

        return taps_cpu
    if language == "triton":
        from upernet.ops.conv3x3 import gpu

        return gpu
    raise ValueError(f"upsample_taps has no kernel {language}: choose from numba, triton")


def _run(taps: Sequence[Tensor], height: int, width: int) -> Tensor:
    if not taps or any(x.dim() != 4 or not x.numel() for x in taps) or min(height, width) < 1:
        raise ValueError("upsample_taps: tap maps must be N x h x w x (9 D) and not empty")
    if any(x.dtype != taps[0].dtype for x in taps):
        raise ValueError("upsample_taps: tap maps differ in dtype")
    language = kernel_language(taps[0])
    lanes = LANES if language == "numba" else 1
    images, *_, channels = taps[0].shape
    if channels % (9 * lanes) or any(x.shape[0] != images or x.shape[3] != channels for x in taps):
        raise ValueError(f"upsample_taps: tap maps must have one N, and 9 D channels with D a multiple of {lanes}")
    return _kernels(language).upsample_taps(taps, height, width)


def _run_gradient(grad: Tensor, height: int, width: int) -> Tensor:
    language = kernel_language(grad)
    if language == "numba" and grad.shape[3] % LANES:
        raise ValueError(f"upsample_taps_gradient: channels must be a multiple of {LANES}, not {grad.shape[3]}")
    return _kernels(language).upsample_taps_gradient(grad, height, width)


def _fake(taps: Sequence[Tensor], height: int, width: int) -> Tensor:
    return taps[0].new_empty(taps[0].shape[0], height, width, taps[0].shape[3] // 9)


def _fake_gradient(grad: Tensor, height: int, width: int) -> Tensor:
    return grad.new_empty(grad.shape[0], height, width, 9 * grad.shape[3])


def _save_sizes(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.sizes = [x.shape[1:3] for x in inputs[0]]


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None, None]:
    return upsample_taps_gradients(grad, ctx.sizes), None, None


def _save_size(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.size = inputs[0].shape[1:3]


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return upsample_taps([grad], *ctx.size), None, None


define_operator(
    "upsample_taps(Tensor[] taps, SymInt height, SymInt width) -> Tensor",
    _run,
    _fake,
    save=_save_sizes,
    backward=_backward,
)
define_operator(
    "upsample_taps_gradient(Tensor grad, SymInt height, SymInt width) -> Tensor",
    _run_gradient,
    _fake_gradient,
    save=_save_size,
    backward=_double_backward,
)
