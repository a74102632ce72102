"""`LabelMap`: the labels of one level for every pixel of a photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNSURE = -1
"""Label of pixels whose most probable class has a probability below the threshold of the level."""
UNSURE_NAME = "unsure"


@dataclass(frozen=True)
class LabelMap:
    """The labels of one dense level (object, part, material, texture, ...), at the size of the photo."""

    level: str
    labels: np.ndarray
    """int16 H x W: indices into `names`, -1 where unsure."""
    confidence: np.ndarray
    """float32 H x W: softmax probability of the most probable class, also where the label is unsure."""
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    """RGB in 0..255, one per name."""
    background: bool
    """Whether label 0 means "none of the listed classes"."""

    def name(self, label: int) -> str:
        """Return the name of a label: `names[label]`, or "unsure" for -1."""
        return UNSURE_NAME if label == UNSURE else self.names[label]

    def counts(self, where: np.ndarray | None = None) -> dict[int, int]:
        """Count the pixels of each label that occurs: label -> pixels, in descending order, unsure last.

        Args:
            where: bool H x W, the pixels to count. Default: all.
        """
        labels = self.labels.ravel() if where is None else self.labels[where]
        numbers = np.bincount(labels.astype(np.intp) - UNSURE, minlength=1)
        found = [(int(position) + UNSURE, int(numbers[position])) for position in np.flatnonzero(numbers)]
        return dict(sorted(found, key=lambda item: (item[0] == UNSURE, -item[1], item[0])))

    def shares(self, where: np.ndarray | None = None) -> dict[str, float]:
        """Return the share of each label that occurs: name -> fraction of the pixels, in descending order, unsure last.

        The fractions add up to 1; without any pixel, the result is empty.

        Args:
            where: bool H x W, the pixels to count. Default: all.

        Example:
            >>> labels = np.array([[0, 0, 1, -1]], np.int16)
            >>> colors = ((0, 0, 255), (90, 90, 90))
            >>> LabelMap("object", labels, np.ones((1, 4), np.float32), ("sky", "road"), colors, False).shares()
            {'sky': 0.5, 'road': 0.25, 'unsure': 0.25}
        """
        counts = self.counts(where)
        total = sum(counts.values())
        return {self.name(label): count / total for label, count in counts.items()}
