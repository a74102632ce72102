"""Images that cost far more memory or time than their number of pixels says, refused before they are decoded."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from PIL import Image

MAX_PIXELS = 178_000_000
"""Largest number of pixels; larger images are refused before they are decoded. Pillow's own limit is just above."""
MAX_BYTES = 4 * MAX_PIXELS
"""Bytes of the decoded samples: four of 8 bits per pixel."""
MAX_BLOCK = 64 * 2**20
"""Bytes of a decoded strip or tile, which may be larger than the image it is a part of."""
MAX_SCANS = 20
"""Scans of a JPEG image of `MAX_PIXELS`; smaller images may have more. Each scan visits every pixel, and takes a few
bytes in the file. Usual progressive images have 10."""
SLOW_DECODERS = frozenset(("bmp_rle", "ppm", "ppm_plain"))
"""Decoders that Pillow wrote in Python; they take a microsecond per pixel."""
MAX_SLOW_PIXELS = 2**24

_WIDTH, _HEIGHT, _BITS, _SAMPLES = 256, 257, 258, 277
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323


def excess(image: Image.Image, decodes: bool = True) -> str | None:
    """Return what an opened image that is not decoded yet has too much of; None if it may be decoded.

    Args:
        image: What `PIL.Image.open` returned.
        decodes: Whether the image will be decoded; otherwise only its size counts.
    """
    width, height = image.size
    pixels = width * height
    if pixels > MAX_PIXELS:
        return f"more than {MAX_PIXELS // 1_000_000} megapixels"
    if not decodes:
        return None
    decoders = {tile[0] for tile in getattr(image, "tile", ())}
    if decoders & SLOW_DECODERS and pixels > MAX_SLOW_PIXELS:
        return f"more than {MAX_SLOW_PIXELS // 1_000_000} megapixels in a slow form of {image.format}"
    if image.format == "TIFF":
        return _excess_of_tiff(getattr(image, "tag_v2", {}), pixels)
    if image.format in ("JPEG", "MPO"):
        file = getattr(image, "fp", None)
        scans = _count(file, b"\xff\xda") if file is not None else 0
        if scans * pixels > MAX_SCANS * MAX_PIXELS:
            return f"{scans} scans"
    return None


def _excess_of_tiff(tags: Any, pixels: int) -> str | None:
    bits: Any = tags.get(_BITS, 1)
    bytes_per_pixel = tags.get(_SAMPLES, 1) * np.max(bits) / 8
    if pixels * bytes_per_pixel > MAX_BYTES:
        return f"more than {MAX_BYTES // 1_000_000} MB of pixels"
    if _TILE_WIDTH in tags:
        block = tags[_TILE_WIDTH] * tags.get(_TILE_HEIGHT, 1)
    else:
        rows = tags.get(_HEIGHT, 1)
        block = tags.get(_WIDTH, 1) * min(tags.get(_ROWS_PER_STRIP, rows), rows)
    if block * bytes_per_pixel > max(MAX_BLOCK, pixels * bytes_per_pixel):
        return f"tiles of {block * bytes_per_pixel / 1_000_000:,.0f} MB"
    return None


def _count(file: IO[bytes], marker: bytes) -> int:
    """Return how often the two bytes of `marker` appear in the whole file; its position stays."""
    position, found, last = file.tell(), 0, b""
    file.seek(0)
    while chunk := file.read(2**20):
        found += (last + chunk).count(marker)
        last = chunk[-1:]
    file.seek(position)
    return found
