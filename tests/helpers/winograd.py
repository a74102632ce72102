"""Rounding errors of Winograd's transforms, which are larger in large tiles."""

from __future__ import annotations

import torch

LARGE_TILES = 2e-4
"""Largest error of outputs with a standard deviation of about 1 from tiles of 6 x 6."""


def has_large_tiles(height: int, width: int) -> bool:
    """Return whether a float32 map of this size is computed in tiles of 6 x 6 outputs."""
    from upernet.ops.conv3x3.winograd_cpu import tile_side
    from upernet.ops.conv3x3.winograd_weights_cpu import tap_panels

    return tile_side(height, width, tap_panels(torch.zeros(16, 16, 3, 3))) == 6


def largest_error(height: int, width: int, small: float) -> float:
    """Return the largest error that is allowed: `small` in tiles of 4 x 4, and more in large ones."""
    return LARGE_TILES if has_large_tiles(height, width) else small
