"""Sampling geometry of DCNv3, shared by all of its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Geometry(NamedTuple):
    """Sampling points of DCNv3. Pairs are (vertical, horizontal); coordinates are pixels, and (0, 0) is the first.

    For output (i, j), point p samples x at origin + stride (i, j) + offset_scale (displacements[p] + offset).
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
        """(dy, dx) of each point in x-major order: the points of a kernel column are consecutive."""
        (kh, kw), (dh, dw) = self.kernel_size, self.dilation
        points = [(b * dh - dh * (kh - 1) // 2, a * dw - dw * (kw - 1) // 2) for a in range(kw) for b in range(kh)]
        if self.remove_center:
            del points[len(points) // 2]
        return points

    @property
    def origin(self) -> tuple[int, int]:
        """Position of the kernel's center for output (0, 0)."""
        (kh, kw), (ph, pw), (dh, dw) = self.kernel_size, self.padding, self.dilation
        return dh * (kh - 1) // 2 - ph, dw * (kw - 1) // 2 - pw

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the result for an input of the given size."""
        return (
            (height + 2 * self.padding[0] - self.dilation[0] * (self.kernel_size[0] - 1) - 1) // self.stride[0] + 1,
            (width + 2 * self.padding[1] - self.dilation[1] * (self.kernel_size[1] - 1) - 1) // self.stride[1] + 1,
        )
