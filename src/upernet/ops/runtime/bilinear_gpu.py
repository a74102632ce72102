"""Bilinear interpolation for Triton kernels, and the launch of one program per tile of a map.

Positions on the coarse grid are whole numbers of `1 / (2 fine)` of a pixel, because they equal
(p + 1/2) coarse / fine - 1/2. They are exact, and 32 bits hold them up to the sides that `eligibility.MAX_SIDE` allows.
"""

# pyright: reportGeneralTypeIssues=false
# Triton reads these functions as its own language; compile-time constants are upper-case by convention.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from upernet.ops.runtime.dtypes import working_dtype

NARROW, WIDE = 16, 128
"""Sides of a tile: across the axis that is contiguous in memory, and along it."""


@triton.jit
def position_of(p, coarse, fine):
    """Return where pixel p of `fine` lies on a grid of `coarse`, clamped to the centers of the outermost pixels."""
    return tl.minimum(tl.maximum((2 * p + 1) * coarse - fine, 0), (coarse - 1) * 2 * fine)


@triton.jit
def corners(p, coarse, fine, SUM: tl.constexpr):
    """Return the coarse pixels before and after position p, and the weight of the second."""
    position = position_of(p, coarse, fine)
    below = position // (2 * fine)
    return below, tl.minimum(below + 1, coarse - 1), (position - below * 2 * fine).to(SUM) / (2 * fine)


def channels_last_tile(channels: int) -> tuple[int, int]:
    """Return the pixels and channels of a tile of a channels-last map."""
    return NARROW, min(WIDE, triton.next_power_of_2(channels))


def launch(
    kernel: Any, tile: tuple[int, int], pixels: int, channels: int, tensors: Sequence[Tensor], *sizes: int,
    taps: int = 1, **constants: bool,
) -> None:  # fmt: skip
    """Run one program per tile (pixels, channels) of each image of the first tensor, and per tap."""
    grid = (triton.cdiv(pixels, tile[0]), taps * triton.cdiv(channels, tile[1]), tensors[0].shape[0])
    double = working_dtype(*tensors) == torch.float64
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](
            *tensors, *sizes, channels, PIXELS=tile[0], CHANNELS=tile[1], SUM=tl.float64 if double else tl.float32,
            **constants,
        )  # fmt: skip
