"""Default colors of classes."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
Array = NDArray[Any]

BACKGROUND_COLOR: Color = (64, 64, 64)

_GRID = range(0, 256, 17)
"""Values of a channel that default colors are chosen from."""
_LIGHTNESS = (35.0, 92.0)
_CHROMA = (18.0, 95.0)
"""CIELAB limits: dark, pale and garish colors hide a photo, or are hard to see on it."""


@lru_cache(maxsize=64)
def default_colors(count: int, taken: tuple[Color, ...] = ()) -> tuple[Color, ...]:
    """Return `count` RGB colors, each as far as possible (in CIELAB) from the others, `taken` and the background.

    The same arguments always give the same colors, and a shorter palette is the beginning of a longer one.
    Colors are distinct until the candidates are used up (over a thousand); then they repeat.
    """
    candidates, lab = _candidates()
    avoided = _lab(np.array([BACKGROUND_COLOR, (0, 0, 0), (255, 255, 255), *taken]))
    # In whole hundredths, because the last floating-point digit of a platform must not decide which color comes next.
    distance = np.min([_squared_distance(lab, color) for color in avoided], axis=0)
    chosen: list[Color] = []
    while len(chosen) < count and distance.max() > 0:
        best = int(distance.argmax())
        red, green, blue = candidates[best].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, _squared_distance(lab, lab[best]))
    return tuple(chosen[i % len(chosen)] for i in range(count))


@lru_cache(maxsize=1)
def _candidates() -> tuple[Array, Array]:
    """Return the RGB candidates (K x 3) and their CIELAB coordinates in hundredths (K x 3)."""
    rgb: Array = np.asarray(list(product(_GRID, repeat=3)))
    lab = _lab(rgb)
    lightness, chroma = lab[:, 0] / 100, np.hypot(lab[:, 1], lab[:, 2]) / 100
    usable = (
        (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1]) & (chroma >= _CHROMA[0]) & (chroma <= _CHROMA[1])
    )
    return rgb[usable], lab[usable]


def _squared_distance(lab: Array, color: Array) -> Array:
    return ((lab - color) ** 2).sum(axis=1)


def _lab(rgb: Array) -> Array:
    """Convert K x 3 sRGB colors in 0..255 to CIELAB (D65) in whole hundredths, int64 K x 3."""
    scaled = rgb / 255
    linear: NDArray[np.float64] = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    to_xyz = np.asarray([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float64)
    xyz: NDArray[np.float64] = linear @ np.transpose(to_xyz) / np.sum(to_xyz, axis=1)
    root: NDArray[np.float64] = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.split(root, 3, axis=1)
    return np.rint(100 * np.concatenate([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)).astype(np.int64)
