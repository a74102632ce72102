"""Where a deformable convolution samples: the geometry that all kernels of an operator share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sampling(NamedTuple):
    """The sampling points of DCNv3; pairs are (vertical, horizontal) and coordinates are pixels, (0, 0) the first.

    Output (i, j) of point p samples x at origin + stride (i, j) + offset_scale (displacements[p] + offset).
    """

    kernel_size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    offset_scale: float
    remove_center: bool

    @property
    def displacements(self) -> list[tuple[int, int]]:
        """(dy, dx) of each point, x-major: the points of one kernel column follow each other."""
        (kh, kw), (dh, dw) = self.kernel_size, self.dilation
        points = [(b * dh - dh * (kh - 1) // 2, a * dw - dw * (kw - 1) // 2) for a in range(kw) for b in range(kh)]
        if self.remove_center:
            del points[len(points) // 2]
        return points

    @property
    def origin(self) -> tuple[int, int]:
        """The centre of the kernel at output (0, 0)."""
        (kh, kw), (ph, pw), (dh, dw) = self.kernel_size, self.padding, self.dilation
        return dh * (kh - 1) // 2 - ph, dw * (kw - 1) // 2 - pw

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return (
            (height + 2 * self.padding[0] - self.dilation[0] * (self.kernel_size[0] - 1) - 1) // self.stride[0] + 1,
            (width + 2 * self.padding[1] - self.dilation[1] * (self.kernel_size[1] - 1) - 1) // self.stride[1] + 1,
        )


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The type that sums are kept in: float64 if any tensor is float64, float32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def to_working_precision(*tensors: Tensor) -> list[Tensor]:
    dtype = working_dtype(*tensors)
    return [t.to(dtype) for t in tensors]
