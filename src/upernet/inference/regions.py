"""Regions: connected areas of one class in a label map."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from upernet.errors import UpernetError, printable
from upernet.inference.components import connected_runs
from upernet.inference.outlines import Polygon, polygons

if TYPE_CHECKING:
    from upernet.inference.label_map import LabelMap


@dataclass(frozen=True, eq=False, repr=False)
class Region:
    """Pixels of one class that are connected, at edges or corners.

    Coordinates are in pixels from the upper left corner of the photo, (x, y). Pixel (x, y) covers x to x + 1 and
    y to y + 1, so boxes and polygons end after their last pixel, and the center of a pixel is at (x + 0.5, y + 0.5).
    """

    level: str
    name: str
    """Name of the class."""
    label: int
    area: int
    """Number of pixels."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1; x1 and y1 are not inside, as in `labels[y0:y1, x0:x1]`."""
    centroid: tuple[float, float]
    """Mean position (x, y); it may lie outside the region."""
    mean_confidence: float
    """Mean of the label map's confidence over the region."""
    photo_size: tuple[int, int]
    """Width and height of the photo."""
    photo: Image.Image | None
    _runs: tuple[np.ndarray, np.ndarray, np.ndarray] = field()
    """Row, first column and column after the last one of each run of pixels."""

    @property
    def share(self) -> float:
        """The area as a fraction of the photo."""
        return self.area / (self.photo_size[0] * self.photo_size[1])

    @cached_property
    def mask(self) -> np.ndarray:
        """The pixels of the region inside its box: bool (y1 - y0) x (x1 - x0)."""
        x0, y0, x1, y1 = self.box
        rows, starts, ends = self._runs
        changes = np.zeros((y1 - y0, x1 - x0 + 1), np.int8)
        changes[rows - y0, starts - x0] = 1
        changes[rows - y0, ends - x0] -= 1  # runs of one label in a row never touch
        return np.cumsum(changes[:, :-1], axis=1, dtype=np.int8).astype(bool)

    @property
    def full_mask(self) -> np.ndarray:
        """The pixels of the region in the whole photo: bool H x W, a new array each time."""
        x0, y0, x1, y1 = self.box
        full = np.zeros(self.photo_size[::-1], bool)
        full[y0:y1, x0:x1] = self.mask
        return full

    @cached_property
    def polygons(self) -> list[Polygon]:
        """The exact outlines: polygons of an outer ring and holes; a ring is a list of corners (x, y)."""
        return polygons(self.mask, self.box[:2])

    def crop(self, margin: int = 0, cutout: bool = False) -> Image.Image:
        """Return the photo inside the box.

        Args:
            margin: Pixels to add on each side, as far as the photo reaches.
            cutout: Whether to make everything outside the region transparent, which gives an RGBA image.

        Raises:
            UpernetError: The label map was made without a photo.
        """
        if self.photo is None:
            raise UpernetError(f"this {self.level} map was made without a photo; take the regions of a Parse.")
        x0, y0, x1, y1 = self.box
        width, height = self.photo_size
        box = (max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin))
        picture = self.photo.crop(box)
        if cutout:
            alpha = np.zeros(picture.size[::-1], np.uint8)
            alpha[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]] = 255 * self.mask
            picture.putalpha(Image.fromarray(alpha))
        return picture

    def __repr__(self) -> str:
        return (
            f"<Region {printable(self.name)}: {self.area} pixels, box {self.box}, "
            f"mean confidence {self.mean_confidence:.2f}>"
        )

    def _repr_png_(self) -> bytes | None:
        if self.photo is None:
            return None
        file = io.BytesIO()
        self.crop().save(file, "PNG")
        return file.getvalue()


def find_regions(label_map: LabelMap, labels: Collection[int] | None, min_area: int = 1) -> list[Region]:
    """Return the regions of a label map, largest first.

    Args:
        label_map: The label map.
        labels: The labels whose regions are wanted. Default: all but -1 and the background.
        min_area: Number of pixels from which on regions are returned.
    """
    height, width = label_map.labels.shape
    runs = connected_runs(label_map.labels)
    lengths = runs.lengths
    _, firsts, numbers = np.unique(runs.components, return_index=True, return_inverse=True)
    values = runs.labels[firsts]
    areas = np.bincount(numbers, lengths)
    wanted = values >= int(label_map.background) if labels is None else np.isin(values, list(labels))
    order = np.argsort(numbers, kind="stable")
    ends_of = np.cumsum(np.bincount(numbers))
    confidence = np.add.reduceat(label_map.confidence.ravel(), runs.rows * width + runs.starts, dtype=np.float64)
    confidences = np.bincount(numbers, confidence) / areas
    x = np.bincount(numbers, lengths * (runs.starts + runs.ends) / 2) / areas
    y = np.bincount(numbers, lengths * (runs.rows + 0.5)) / areas
    found: list[Region] = []
    for number in np.flatnonzero(wanted & (areas >= min_area)).tolist():
        own = order[(ends_of[number - 1] if number else 0) : ends_of[number]]
        rows, starts, ends = runs.rows[own], runs.starts[own], runs.ends[own]
        label = int(values[number])
        region = Region(
            level=label_map.level,
            name=label_map.name(label),
            label=label,
            area=int(areas[number]),
            box=(int(starts.min()), int(rows[0]), int(ends.max()), int(rows[-1]) + 1),
            centroid=(float(x[number]), float(y[number])),
            mean_confidence=float(confidences[number]),
            photo_size=(width, height),
            photo=label_map.photo,
            _runs=(rows, starts, ends),
        )
        found.append(region)
    return sorted(found, key=lambda region: -region.area)
