"""The labels of one level for every pixel of a photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNSURE = -1
"""Label of a pixel whose best label has too low a probability to be shown."""
UNSURE_NAME = "unsure"


@dataclass(frozen=True)
class LevelMap:
    """The labels of one level (object, part, material or texture) in photo size."""

    level: str
    labels: np.ndarray
    """int16 H x W: indices into `names`, -1 where unsure."""
    confidence: np.ndarray
    """float32 H x W: probability (softmax) of the best label, also where that is hidden as unsure."""
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    """RGB in 0..255, one per name."""
    background: bool
    """True: label 0 means "nothing that is listed"."""

    def name(self, label: int) -> str:
        """`names[label]`, or "unsure" for -1."""
        return UNSURE_NAME if label == UNSURE else self.names[label]

    def counts(self, where: np.ndarray | None = None) -> dict[int, int]:
        """label -> number of pixels, for the labels that occur; largest first, unsure last.

        Args:
            where: bool H x W; only these pixels are counted. Default: all.
        """
        labels = self.labels.ravel() if where is None else self.labels[where]
        numbers = np.bincount(labels.astype(np.intp) - UNSURE, minlength=1)
        found = [(int(position) + UNSURE, int(numbers[position])) for position in np.flatnonzero(numbers)]
        return dict(sorted(found, key=lambda item: (item[0] == UNSURE, -item[1], item[0])))

    def shares(self, where: np.ndarray | None = None) -> dict[str, float]:
        """name -> fraction of the photo's pixels, largest first, "unsure" last; the fractions add up to 1.

        Args:
            where: bool H x W; fractions of these pixels instead (empty if there are none). Default: all.

        Example:
            >>> labels = np.array([[0, 0, 1, -1]], np.int16)
            >>> colors = ((0, 0, 255), (90, 90, 90))
            >>> LevelMap("object", labels, np.ones((1, 4), np.float32), ("sky", "road"), colors, False).shares()
            {'sky': 0.5, 'road': 0.25, 'unsure': 0.25}
        """
        counts = self.counts(where)
        total = sum(counts.values())
        return {self.name(label): count / total for label, count in counts.items()}
