"""Bilinear resizing of 8-bit images in OpenCV's fixed-point arithmetic, with which published scores were measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ONE = 1 << 11
"""The weight 1."""

Pixels = npt.NDArray[np.uint8]


def resize_as_opencv(photo: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize uint8 H x W x C to the height and width `size`, bilinearly and without smoothing.

    The result is that of OpenCV's `INTER_LINEAR` to the last bit: weights are rounded to 11 bits, the sums along rows
    lose 4 bits, and each product of the columns 16.
    """
    top, bottom, upper, lower = _neighbors(photo.shape[0], size[0], clamp=False)
    left, right, before, after = _neighbors(photo.shape[1], size[1], clamp=True)
    used = np.unique(np.concatenate([top, bottom]))  # rows that are far apart leave others out
    widened = (photo[np.ix_(used, left)] * before[:, None] + photo[np.ix_(used, right)] * after[:, None]) >> 4
    above, below = widened[np.searchsorted(used, top)], widened[np.searchsorted(used, bottom)]
    total = ((above * upper[:, None, None]) >> 16) + ((below * lower[:, None, None]) >> 16)
    return ((total + 2) >> 2).astype(np.uint8)


def _neighbors(length: int, resized: int, clamp: bool) -> tuple[npt.NDArray[np.int64], ...]:
    """Return, for each pixel of the resized axis, its two neighbors on the axis and the weight of each, times `ONE`.

    Beyond the outermost pixels, both neighbors are the outermost one. With `clamp`, one of them has the whole weight;
    otherwise, they share it, which is rounded differently.
    """
    position = ((np.arange(resized) + 0.5) * (1 / (resized / length)) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    share = position - first.astype(np.float32)
    if clamp:
        share[(first < 0) | (first >= length - 1)] = 0
    weights = (np.rint(weight * ONE).astype(np.int64) for weight in (1 - share, share))
    return first.clip(0, length - 1), (first + 1).clip(0, length - 1), *weights
