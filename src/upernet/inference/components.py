"""Connected components of label maps, found from runs of equal labels in numpy.

scipy and OpenCV label components too, but neither is a dependency, and this takes no compilation at the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Runs:
    """The horizontal runs of equal labels of a label map, in the order of the pixels."""

    shape: tuple[int, ...]
    """Height and width of the label map."""
    rows: np.ndarray
    starts: np.ndarray
    """First column of each run."""
    ends: np.ndarray
    """Column after the last one of each run."""
    labels: np.ndarray
    components: np.ndarray
    """Number of the connected component of each run: the index of the component's first run."""
    touching: tuple[np.ndarray, np.ndarray]
    """Pairs of runs of consecutive rows that touch, whatever their labels: the upper ones, and the lower ones."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of pixels of each run."""
        return self.ends - self.starts

    @property
    def component_map(self) -> np.ndarray:
        """The component of each pixel, H x W."""
        flat: Any = np.repeat(self.components, self.lengths)
        return flat.reshape(self.shape)


def connected_runs(labels: np.ndarray, diagonal: bool = True) -> Runs:
    """Return the runs of a label map H x W, and the connected component that each belongs to.

    Args:
        labels: The label map; pixels are connected if their labels are equal.
        diagonal: Whether pixels that touch at a corner alone are connected (8-connectivity).

    Example:
        >>> connected_runs(np.array([[1, 0], [0, 1]])).components.tolist()
        [0, 1, 1, 0]
    """
    height, width = labels.shape
    begins = np.ones((height, width), bool)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    first = np.flatnonzero(begins)
    rows, starts = np.divmod(first, max(width, 1))
    ends = np.append(first[1:], labels.size) - rows * width
    values = labels.ravel()[first].astype(np.int64)

    # Runs cover every row, so the neighbors of a run in the next row are consecutive runs.
    upper = np.flatnonzero(rows < height - 1)
    reach = int(diagonal)
    below = (rows[upper] + 1) * width
    left = _positions(first, below + np.maximum(starts[upper] - reach, 0))
    numbers = _positions(first, below + np.minimum(ends[upper] - 1 + reach, width - 1)) - left + 1
    one = np.repeat(upper, numbers)
    offset: Any = np.repeat(left - np.cumsum(numbers) + numbers, numbers)
    other = np.arange(len(one)) + offset
    same = values[one] == values[other]
    components = _roots(np.arange(len(first)), one[same], other[same])
    return Runs(labels.shape, rows, starts, ends, values, components, (one, other))


def _positions(first: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the positions in `first` (ascending) of the runs that hold these pixels."""
    return np.searchsorted(first, pixels, "right") - 1


def _roots(root: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the smallest node of the connected component of each node of a graph.

    Args:
        root: The nodes 0, 1, 2, ...
        one: One end of each edge.
        other: The other end.
    """
    while True:
        least = np.minimum(root[one], root[other])
        before: np.ndarray = np.copy(root)
        for end in (one, other):
            np.minimum.at(root, before[end], least)
            np.minimum.at(root, end, least)
        root = np.take(root, root)
        if np.array_equal(root, before):
            return root
