"""Ranges of the numbers that go into int8 layers, observed on photos."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.conv3x3.winograd_tiles_cpu import MIDDLE, P, Q


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
        """Extend the ranges to the tiles of x N x C x H x W."""
        for image in x:
            self.largest = torch.maximum(self.largest, transformed_tiles(image[None]).abs().amax((0, 2, 3)))

    @property
    def steps(self) -> Tensor:
        """Difference of the numbers that neighboring integers stand for, 36."""
        return torch.where(self.largest > 0, self.largest, 1.0) / (MIDDLE - 1)


def input_matrix() -> Tensor:
    """Return Winograd's 6 x 6 matrix of the inputs, for the points 0, P, -P, Q, -Q and infinity, in float64."""
    total = P**2 + Q**2
    rows = [[1.0, 0.0, -total, 0.0, 1.0, 0.0]]
    for point, other in ((P, Q), (Q, P)):
        rows += [[0.0, -(other**2) * x, -(other**2), x, 1.0, 0.0] for x in (point, -point)]
    return torch.tensor([*rows, [0.0, 1.0, 0.0, -total, 0.0, 1.0]], dtype=torch.float64)


def transformed_tiles(x: Tensor) -> Tensor:
    """Return the transformed inputs of x N x C x H x W in tiles of 4 x 4 outputs: N x 36 x C x tiles."""
    images, channels, height, width = x.shape
    padded = F.pad(x, (1, 1 + -width % 4, 1, 1 + -height % 4))
    tiles = padded.unfold(2, 6, 4).unfold(3, 6, 4)  # N x C x rows x columns x 6 x 6
    matrix = input_matrix().to(x)
    transformed = matrix @ tiles @ matrix.T
    return transformed.flatten(4).permute(0, 4, 1, 2, 3).reshape(images, 36, channels, -1)
