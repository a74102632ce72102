"""Shapes, and the masks that they are drawn into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from upernet.errors import UpernetError

Points = npt.NDArray[np.float64]
MAX_COORDINATE = 1e6


@dataclass(frozen=True)
class Shape:
    """A thing in a photo.

    Attributes:
        label: Its class.
        polygons: Outlines, N x 2 each: x to the right and y down in pixels, (0, 0) at the corner of the first pixel.
        mask: Function that returns the pixels of the thing as bool H x W, instead of outlines.
        order: Shapes of a higher order lie on top; among those of one order, the smaller ones.
    """

    label: str
    polygons: Sequence[Points] = ()
    mask: Callable[[], npt.NDArray[np.bool_]] | None = None
    order: int = 0

    def area(self) -> float:
        """Return the area in pixels."""
        if self.mask is not None:
            return float(self.mask().sum())
        return sum(_area(polygon) for polygon in self.polygons)

    def pixels(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """Return the pixels of the thing, bool H x W.

        Raises:
            UpernetError: The mask cannot be decoded, or has another size.
        """
        if self.mask is not None:
            found = self.mask()
            if found.shape != (height, width):
                raise UpernetError(
                    f"the mask of a {self.label!r} is {found.shape[1]} x {found.shape[0]} pixels, but its photo is "
                    f"{width} x {height}; export the annotations again."
                )
            return found
        inside = np.zeros((height, width), dtype=bool)
        for polygon in self.polygons:
            fill_polygon(inside, polygon)
        return inside


@dataclass(frozen=True)
class Drawing:
    """The shapes of one photo.

    Attributes:
        photo: Path of the photo, as the file gives it.
        size: Width and height of the photo, as the file gives them; None: it does not.
        shapes: The shapes.
        skipped: Number of shapes without an area, such as points, lines and boxes of a tool that has polygons, too.
    """

    photo: PurePosixPath
    size: tuple[int, int] | None
    shapes: Sequence[Shape]
    skipped: int = 0

    def draw(self, values: Mapping[str, int], size: tuple[int, int]) -> np.ndarray:
        """Return the mask of a photo of `size` (width, height), int32 H x W: the value of each label; 0 outside.

        Raises:
            UpernetError: A mask cannot be decoded, or has another size.
        """
        width, height = size
        mask = np.zeros((height, width), dtype=np.int32)
        for shape in sorted(self.shapes, key=lambda shape: (shape.order, -shape.area())):
            mask[shape.pixels(height, width)] = values[shape.label]
        return mask


@dataclass(frozen=True)
class ShapesFile:
    """The content of a file of annotations.

    Attributes:
        drawings: The shapes of each photo that the file lists.
        labels: The classes, in the order of the file.
        colors: Class -> `#rrggbb`, where the file gives colors.
    """

    drawings: Sequence[Drawing]
    labels: Sequence[str]
    colors: Mapping[str, str] = field(default_factory=dict[str, str])


def fill_polygon(inside: npt.NDArray[np.bool_], polygon: Points) -> None:
    """Set the pixels, bool H x W, whose centers are inside a polygon, by the even-odd rule, in place.

    Pillow rounds the corners of polygons to whole pixels and adds their border: for small things, a fifth of the area.
    """
    height, width = inside.shape
    polygon = np.minimum(np.maximum(polygon, -MAX_COORDINATE), MAX_COORDINATE)
    ends = np.roll(polygon, -1, axis=0)
    down = (polygon[:, 1] <= ends[:, 1])[:, None]
    upper, lower = np.where(down, polygon, ends), np.where(down, ends, polygon)
    # the rows whose centers an edge crosses: upper.y <= row + 0.5 < lower.y
    first = np.ceil(upper[:, 1] - 0.5).clip(0, height).astype(int)
    last = np.ceil(lower[:, 1] - 0.5).clip(0, height).astype(int)
    counts = last - first
    edge = np.repeat(np.arange(len(polygon)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    x = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope
    column = np.ceil(x - 0.5).clip(0, width).astype(int)
    if not len(row):
        return
    top, bottom = int(row.min()), int(row.max()) + 1
    left, right = int(column.min()), int(column.max())
    crossings = np.zeros((bottom - top, right - left + 1), dtype=np.int32)
    np.add.at(crossings, (row - top, column - left), 1)
    inside[top:bottom, left:right] |= (np.cumsum(crossings, axis=1) % 2 == 1)[:, :-1]


def _area(polygon: Points) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
