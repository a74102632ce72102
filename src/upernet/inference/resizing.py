"""The sizes at which photos go through the network."""

from __future__ import annotations

import math

from PIL import Image

from upernet.inference.tiling import PIXEL_BUDGET

IMAGE_LABEL_SHORT_SIDE = 256
"""Longest short side, in pixels, of the photo that image labels (the scene) and its familiarity are read from."""


def reduced(photo: Image.Image, short_side: int, pixels: float = math.inf) -> Image.Image:
    """Shrink the photo if its short side or its number of pixels exceeds the limit."""
    factor = min(1.0, short_side / min(photo.size), math.sqrt(pixels / (photo.width * photo.height)))
    if factor == 1:
        return photo
    width, height = (max(1, round(side * factor)) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def image_view(photo: Image.Image) -> Image.Image:
    """Return the photo at the size that image labels are read from, as in training."""
    return reduced(photo, IMAGE_LABEL_SHORT_SIDE, PIXEL_BUDGET)
