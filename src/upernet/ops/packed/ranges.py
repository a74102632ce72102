"""Ranges of the numbers that go into int8 layers, observed on photos."""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.ops.conv3x3.winograd_tiles_cpu import MIDDLE, input_transform


class Range:
    """The range of a map's numbers, which contains zero."""

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def observe(self, x: Tensor) -> None:
        """Extend the range to the numbers of `x`."""
        low, high = x.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    @property
    def step(self) -> float:
        """Difference of the numbers that neighboring integers stand for."""
        return (self.high - self.low) / 255 or 1.0

    @property
    def zero(self) -> int:
        """The integer that stands for zero."""
        return round(-self.low / self.step)


class TileRange:
    """The largest magnitudes of the 36 transformed inputs of Winograd's tiles."""

    def __init__(self) -> None:
        self.largest = torch.zeros(36)

    def observe(self, x: Tensor) -> None:
        """Extend the ranges to the tiles of x N x C x H x W, float32, with C a multiple of 16."""
        for image in x.permute(0, 2, 3, 1).contiguous():
            height, width, channels = image.shape
            values = torch.empty(-(-width // 4), 36, channels)
            for top in range(0, height, 4):
                input_transform(image, top, values, 0)
                self.largest = torch.maximum(self.largest, values.abs().amax((0, 2)))

    @property
    def steps(self) -> Tensor:
        """Difference of the numbers that neighboring integers stand for, 36."""
        return torch.where(self.largest > 0, self.largest, 1.0) / (MIDDLE - 1)
