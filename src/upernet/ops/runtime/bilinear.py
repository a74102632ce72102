"""Bilinear resizing with pixel centers at half integers (`align_corners=False`), everywhere in this package."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Resize N x C x h x w bilinearly to `size` (height, width); return `x` itself if it has that size."""
    if has_size(x, size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def has_size(x: Tensor, size: tuple[int, int] | torch.Size) -> bool:
    """Return whether `x` has this height and width; for sizes that are symbols, whether it has them in every case.

    A comparison would tie a program that is traced for all sizes to those that it is traced with.
    """
    sides = zip(x.shape[-2:], size, strict=True)
    if not torch.compiler.is_compiling():
        return all(own == other for own, other in sides)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    return all(statically_known_true(own == other) for own, other in sides)


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Resize `x` bilinearly to the height and width of `reference`."""
    return resize(x, reference.shape[-2:])


class Axis(NamedTuple):
    """Interpolation along one axis: fine position p reads coarse pixels `below[p]` and `above[p]`.

    Their weights are `1 - part[p]` and `part[p]`.
    """

    below: np.ndarray
    above: np.ndarray
    part: np.ndarray


@lru_cache(maxsize=256)
def axis(coarse: int, fine: int, dtype: torch.dtype) -> Axis:
    """Return the interpolation from `coarse` to `fine` pixels, with weights in float32 or float64."""
    position = np.maximum((np.arange(fine) + 0.5) * (coarse / fine) - 0.5, 0)
    below = np.minimum(position.astype(np.int64), coarse - 1)
    part = (position - below).astype(np.float32 if dtype == torch.float32 else np.float64)
    return Axis(below, np.minimum(below + 1, coarse - 1), part)
