"""Weight transforms of Winograd's F(4x4, 3x3) and F(6x6, 3x3) (arXiv 1509.09308, section 4.1), with Numba.

The adjoint exists for F(4x4, 3x3).
"""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from upernet.ops.conv3x3.winograd_axes_cpu import kernel_axis, kernel_gradient_axis
from upernet.ops.runtime.matmul import PANEL, as_numpy, memory_of, multiply_panels
from upernet.ops.runtime.simd import LANES
from upernet.ops.runtime.threads import jit, kernel, run, take

CHANNELS_PER_UNIT = 32
"""Input channels of a panel that one thread rearranges before it fetches the next unit, so that they stay in its
cache."""


@kernel
def _tap_panels(counter, weight, first, strides, outputs, channels, panels):
    """Copy weight D x C x 3 x 3, with any strides, to panels P x 9 x C x PANEL."""
    by_output, by_channel, by_row, by_column = strides
    count, blocks = -(-outputs // PANEL), -(-channels // CHANNELS_PER_UNIT)
    while True:
        unit = take(counter)
        if unit >= count * blocks:
            return
        panel, start = unit // blocks, unit % blocks * CHANNELS_PER_UNIT
        stop = min(start + CHANNELS_PER_UNIT, channels)
        for lane in range(PANEL):
            output = panel * PANEL + lane
            for c in range(start, stop):
                at = first + output * by_output + c * by_channel
                to = (9 * panel * channels + c) * PANEL + lane
                for i in range(3):
                    for j in range(3):
                        value = weight.dtype.type(0)
                        if output < outputs:
                            value = weight[at + i * by_row + j * by_column]
                        panels[to + (3 * i + j) * channels * PANEL] = value


@jit
def transform_panel(size, taps, panel, channels, ranges, target, to, step, half):
    """Transform one panel of taps P x 9 x C x PANEL for `size` x `size` products: that many matrices K x PANEL.

    Each begins `step` numbers after the one before it. The K input channels are those from the first to before the
    second number of each row of `ranges`. `half` has room for 3 x `size` vectors.
    """
    tap = channels * PANEL
    k = 0
    for n in range(ranges.shape[0]):
        for c in range(ranges[n, 0], ranges[n, 1]):
            at = 9 * panel * tap + c * PANEL
            for lane in range(0, PANEL, LANES):
                for j in range(3):
                    kernel_axis(size, taps, at + j * tap + lane, 3 * tap, half, j * LANES, 3 * LANES)
                for i in range(size):
                    kernel_axis(size, half, 3 * i * LANES, LANES, target, to + size * i * step + k * PANEL + lane, step)
            k += 1


@kernel
def _transform_panels(counter, taps, count, channels, ranges, depth, panels):
    half = np.empty(18 * LANES, taps.dtype)
    size = depth * PANEL
    while True:
        panel = take(counter)
        if panel >= count:
            return
        transform_panel(6, taps, panel, channels, ranges, panels, panel * size, count * size, half)


@kernel
def _kernel_gradient(counter, products, outputs, depth, out, channels):
    half = np.empty(18 * LANES, out.dtype)
    taps = np.empty(9 * LANES, out.dtype)
    while True:
        d = take(counter)
        if d >= outputs:
            return
        for c in range(0, channels, LANES):
            at, step = d * depth + c, outputs * depth
            for j in range(6):
                kernel_gradient_axis(products, at + j * step, 6 * step, half, j * LANES, 6 * LANES)
            for i in range(3):
                kernel_gradient_axis(half, 6 * i * LANES, LANES, taps, 3 * i * LANES, LANES)
            to = (d * channels + c) * 9
            for lane in range(LANES):
                for tap in range(9):
                    out[to + 9 * lane + tap] = taps[tap * LANES + lane]


class TapProduct:
    """A product with the nine taps of a weight D x C x 3 x 3, in row-major order: K -> 9 D.

    Args:
        panels: P x 9 x C x PANEL, float32 or float64.
        outputs: D.
        channels: The K input channels that are multiplied.
    """

    def __init__(self, panels: Tensor, outputs: int, channels: range):
        self.panels, self.channels = panels, channels
        self.outputs, self.dtype = 9 * outputs, panels.dtype

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """Multiply x R x 1 x K into `out` R x 1 x (9 D), both contiguous; return `out`."""
        source, panels, target = (as_numpy(each) for each in (x.detach(), self.panels, out))
        depth, tap = len(self.channels), self.panels.shape[2] * PANEL
        base = np.zeros(9 * len(self.panels) * PANEL, target.dtype)
        steps = (depth, 0, self.channels.start * PANEL, tap, 9 * tap)
        multiply_panels(source, panels, base, target, (len(x), 9, depth, self.outputs // 9), steps)
        return out


class TapPanels(NamedTuple):
    """A weight D x C x 3 x 3 in panels of outputs, and which of its input channels are multiplied.

    Winograd's transform of a panel is computed whenever the panel is used.
    """

    panels: Tensor
    """P x 9 x C x PANEL, float32 or float64; outputs from `outputs` on are 0."""
    outputs: int
    channels: Sequence[range]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the transformed inputs."""
        return self.panels.dtype

    @property
    def depth(self) -> int:
        """Number of input channels that are multiplied."""
        return sum(map(len, self.channels))

    @property
    def ranges(self) -> np.ndarray:
        """Start and stop of each of the ranges `channels`."""
        return np.array([(chosen.start, chosen.stop) for chosen in self.channels], np.int64)

    def winograd(self, channels: Sequence[range]) -> TapPanels:
        """Return the same panels for these input channels."""
        return self._replace(channels=channels)

    def taps(self, channels: range) -> TapProduct:
        """Return the product per pixel with the nine taps for these input channels."""
        return TapProduct(self.panels, self.outputs, channels)


def tap_panels(weight: Tensor, adjoint: bool = False) -> TapPanels:
    """Rearrange a weight D x C x 3 x 3 in panels of PANEL outputs.

    Args:
        weight: The weight, float32 or float64.
        adjoint: Whether to take the kernel that carries gradients back: rotated by 180 degrees, with C outputs and D
            inputs.
    """
    if adjoint:
        weight = weight.transpose(0, 1)
    outputs, channels = weight.shape[:2]
    panels = weight.new_empty(-(-outputs // PANEL), 9, channels, PANEL)
    by_output, by_channel, by_row, by_column = weight.stride()
    first = 0
    if adjoint:
        first, by_row, by_column = 2 * (by_row + by_column), -by_row, -by_column
    strides = (by_output, by_channel, by_row, by_column)
    units = len(panels) * -(-channels // CHANNELS_PER_UNIT)
    target = panels.numpy().reshape(-1)
    run(_tap_panels, units, memory_of(weight), first, strides, outputs, channels, target)
    return TapPanels(panels, outputs, [range(channels)])


def transform_panels(weight: TapPanels) -> Tensor:
    """Transform all panels of a weight for its K input channels and 6 x 6 products: 36 x P x K x PANEL."""
    count, _, channels, _ = weight.panels.shape
    panels = weight.panels.new_empty(36, count, weight.depth, PANEL)
    source, target = (each.numpy().reshape(-1) for each in (weight.panels, panels))
    sizes = (count, channels, weight.ranges, weight.depth)
    run(_transform_panels, count, source, *sizes, target)
    return panels


def kernel_gradient(products: Tensor, out: Tensor) -> None:
    """Apply the adjoint of the weight transform: products 36 x D x K, K at least C -> out D x C x 3 x 3."""
    outputs, channels = out.shape[:2]
    sizes = (outputs, products.shape[2], out.numpy().reshape(-1), channels)
    run(_kernel_gradient, outputs, products.numpy().reshape(-1), *sizes)
