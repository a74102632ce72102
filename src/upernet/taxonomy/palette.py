"""Colours for classes that have none of their own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Color = tuple[int, int, int]

BACKGROUND_COLOR: Color = (64, 64, 64)

_GRID = np.arange(0, 256, 17)
"""Values of a channel that default colours are chosen from."""
_LIGHTNESS = (35.0, 92.0)
_CHROMA = (18.0, 95.0)
"""CIELAB limits: dark, pale and garish colours hide a photo, or hide in it."""


@lru_cache(maxsize=64)
def default_colors(count: int, taken: tuple[Color, ...] = ()) -> tuple[Color, ...]:
    """`count` RGB colours, each as far as possible (CIELAB) from those before it, from `taken` and the background's.

    The same arguments always give the same colours, and a shorter palette is the beginning of a longer one.
    Colours are distinct until the candidates are used up (over a thousand); then they repeat.
    """
    candidates, lab = _candidates()
    avoided = _lab(np.array([BACKGROUND_COLOR, (0, 0, 0), (255, 255, 255), *taken]))
    # Whole hundredths: a platform's last floating-point digit must not decide which colour comes next.
    distance = np.min([_squared_distance(lab, color) for color in avoided], axis=0)
    chosen: list[Color] = []
    while len(chosen) < count and distance.max() > 0:
        best = int(distance.argmax())
        red, green, blue = candidates[best].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, _squared_distance(lab, lab[best]))
    return tuple(chosen[i % len(chosen)] for i in range(count))


@lru_cache(maxsize=1)
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    """RGB candidates (K x 3) and their CIELAB coordinates in hundredths (K x 3)."""
    rgb = np.stack(np.meshgrid(_GRID, _GRID, _GRID, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(rgb)
    lightness, chroma = lab[:, 0] / 100, np.hypot(lab[:, 1], lab[:, 2]) / 100
    usable = (
        (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1]) & (chroma >= _CHROMA[0]) & (chroma <= _CHROMA[1])
    )
    return rgb[usable], lab[usable]


def _squared_distance(lab: np.ndarray, color: np.ndarray) -> np.ndarray:
    return ((lab - color) ** 2).sum(axis=1)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours 0..255, in whole hundredths; K x 3 -> K x 3 int64."""
    scaled = rgb / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.rint(100 * np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)).astype(np.int64)
