"""Products of pixels with the nine taps of a 3x3 convolution on a CPU with Numba, from taps in panels."""

# pyright: reportCallIssue=false
# Numba calls an intrinsic with fewer arguments than its definition has.

from __future__ import annotations

import numpy as np
from torch import Tensor

from upernet.ops.runtime.matmul import PANEL, PANELS_PER_UNIT, ROWS_PER_UNIT, multiply_panel
from upernet.ops.runtime.threads import kernel, run, take


@kernel
def _multiply_by_taps(counter, x, taps, base, out, rows, channels, first, depth, outputs):
    """Multiply x R x K by taps P x 9 x C x PANEL, from input channel `first` on, and write out R x 9 x D."""
    panels = -(-outputs // PANEL)
    row_blocks, blocks = -(-rows // ROWS_PER_UNIT), -(-9 * panels // PANELS_PER_UNIT)
    edge = np.empty(ROWS_PER_UNIT * PANEL, out.dtype)
    while True:
        unit = take(counter)
        if unit >= blocks * row_blocks:
            return
        start, r = unit // row_blocks * PANELS_PER_UNIT, unit % row_blocks * ROWS_PER_UNIT
        count = min(ROWS_PER_UNIT, rows - r)
        for n in range(start, min(start + PANELS_PER_UNIT, 9 * panels)):
            tap, panel = n // panels, n % panels
            weight = ((9 * panel + tap) * channels + first) * PANEL
            c, c_step = (9 * r + tap) * outputs + panel * PANEL, 9 * outputs
            valid = min(PANEL, outputs - panel * PANEL)
            target, t, t_step = (out, c, c_step) if valid == PANEL else (edge, 0, PANEL)
            multiply_panel(count, x, r * depth, depth, 1, taps, weight, PANEL, depth, base, 0, 0, target, t, t_step)
            if valid < PANEL:
                for i in range(count):
                    for j in range(valid):
                        out[c + i * c_step + j] = edge[i * PANEL + j]


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
        panels, source, target = (each.numpy().reshape(-1) for each in (self.panels, x.detach(), out))
        outputs, depth = self.outputs // 9, len(self.channels)
        units = -(-9 * len(self.panels) // PANELS_PER_UNIT) * -(-len(x) // ROWS_PER_UNIT)
        sizes = (len(x), self.panels.shape[2], self.channels.start, depth, outputs)
        base = np.zeros(PANEL, target.dtype)
        run(_multiply_by_taps, units, source, panels, base, target, *sizes)
        return out
