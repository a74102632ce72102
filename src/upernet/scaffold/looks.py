"""Whether an image looks like a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upernet.data.images import read_color_mask, read_header, read_mask
from upernet.data.sources.colors import color_codes
from upernet.errors import UpernetError

FEW = 64
"""Largest number of values or colors in an image that looks like a mask."""


def looks_like_mask(path: Path) -> bool:
    """Return whether an image has few values or colors, as masks of classes do."""
    try:
        colored = read_header(path).mode.startswith(("RGB", "CMYK", "YCbCr"))
        values = color_codes(read_color_mask(path)) if colored else read_mask(path)
    except UpernetError:
        return False
    return len(np.unique(values)) <= FEW
