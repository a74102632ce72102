"""The sizes at which photos go through the network."""

from __future__ import annotations

import math

from PIL import Image

from upernet.inference.tiling import PIXEL_BUDGET

IMAGE_LABEL_SHORT_SIDE = 256
"""Longest short side, in pixels, of the photo that image labels (the scene) and its familiarity are read from."""


def reduced(photo: Image.Image, short_side: int, pixels: float = math.inf) -> Image.Image:
    """Shrink the photo if its short side or its number of pixels exceeds the limit."""
    size = reduced_size(photo.size, short_side, pixels)
    return photo if size == photo.size else photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def reduced_size(size: tuple[int, int], short_side: int, pixels: float = math.inf) -> tuple[int, int]:
    """Return the width and height of what `reduced` returns for a photo of this width and height."""
    factor = min(1.0, short_side / min(size), math.sqrt(pixels / (size[0] * size[1])))
    return size if factor == 1 else (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))


def image_view(photo: Image.Image) -> Image.Image:
    """Return the photo at the size that image labels are read from, as in training."""
    return reduced(photo, IMAGE_LABEL_SHORT_SIDE, PIXEL_BUDGET)


def image_view_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height of what `image_view` returns for a photo of this width and height."""
    return reduced_size(size, IMAGE_LABEL_SHORT_SIDE, PIXEL_BUDGET)
