"""`LabelMap`: the labels of one level for every pixel of a photo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from PIL import Image

from upernet.errors import UpernetError, printable
from upernet.inference.regions import Region, find_regions
from upernet.inference.wording import percent
from upernet.taxonomy import Level

UNSURE = -1
"""Label of pixels whose most probable class has a probability below its threshold."""
UNSURE_NAME = "unsure"


LISTED = 4
"""Number of classes in the `repr` of a label map."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelMap:
    """The labels of one dense level (object, part, material, texture, ...), at the size of the photo.

    Methods that take the name of a class also take it with spaces instead of underscores, and "unsure". They raise
    `UpernetError` for a class that the level does not have, and suggest similar names; the result for a class that
    does not occur is empty.

    Example:
        >>> labels = np.array([[0, 0, 1, -1]], np.int16)
        >>> colors = ((0, 0, 255), (90, 90, 90))
        >>> label_map = LabelMap("object", labels, np.ones((1, 4), np.float32), ("sky", "road"), colors, False)
        >>> label_map
        <LabelMap object, 4 x 1 pixels, 2 classes: sky 50 %, road 25 %, unsure 25 %>
        >>> label_map.mask("sky").tolist(), label_map.area("sky"), label_map.share("sky")
        ([[True, True, False, False]], 2, 0.5)
        >>> label_map.regions("road")
        [<Region road: 1 pixels, box (2, 0, 3, 1), mean confidence 1.00>]
    """

    level: str
    labels: np.ndarray
    """int16 H x W: indices into `names`, -1 where unsure."""
    confidence: np.ndarray
    """float32 H x W: softmax probability of the label, or of the most probable class where the label is unsure."""
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    """RGB in 0..255, one per name."""
    background: bool
    """Whether label 0 means "none of the listed classes"."""
    photo: Image.Image | None = None
    """The photo; `Parse` sets it."""
    compute_probabilities: Callable[[], np.ndarray] | None = field(default=None)
    """Computes `probabilities`; the parser sets it if `probabilities=True`."""

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The probability of each class at each pixel: float16 K x H x W, in the order of `names`.

        They are computed at the first use, and kept: 2 bytes per class and pixel, so 150 classes of a photo of 1
        megapixel take 300 MB. `probabilities[label]` is the map of one class. For parts, the probabilities are those of
        the parts of the object that is predicted at the pixel; where it has none, only the first one differs from 0,
        and is that of the object. Where labels follow the edges of the photo (objects and parts),
        and on merged islands, the label may differ from the most probable class here.

        Raises:
            UpernetError: The photo was parsed without `probabilities=True`.
        """
        if self.compute_probabilities is None:
            raise UpernetError(
                "the probabilities were not kept; parse the photo with parser(photo, probabilities=True)."
            )
        return self.compute_probabilities()

    def label(self, name: str) -> int:
        """Return the label of a class."""
        if name == UNSURE_NAME:
            return UNSURE
        spaced = [other.replace("_", " ") for other in self.names]
        if name not in self.names and spaced.count(name) == 1:
            return spaced.index(name)
        return Level(self.level, self.names, self.colors, self.background).index(name)

    def mask(self, name: str) -> np.ndarray:
        """Return the pixels of a class: bool H x W."""
        return self.labels == self.label(name)

    def area(self, name: str) -> int:
        """Return the number of pixels of a class."""
        return int(np.count_nonzero(self.mask(name)))

    def share(self, name: str) -> float:
        """Return the area of a class as a fraction of the photo."""
        return self.area(name) / self.labels.size

    def regions(self, name: str | None = None, min_area: int = 1) -> list[Region]:
        """Return the connected regions of a class, largest first; pixels that touch at a corner are connected.

        Args:
            name: The class. Default: all classes, without the background class and "unsure".
            min_area: Number of pixels from which on regions are returned.

        Example:
            >>> import upernet
            >>> for car in upernet.load("everyday")("street.jpg").object.regions("car", min_area=100):
            ...     print(car.box, car.mean_confidence)
            ...     car.crop().save(f"car-{car.box[0]}-{car.box[1]}.png")
        """
        return find_regions(self, None if name is None else [self.label(name)], min_area)

    def name(self, label: int) -> str:
        """Return the name of a label: `names[label]`, or "unsure" for -1."""
        return UNSURE_NAME if label == UNSURE else self.names[label]

    def counts(self, where: np.ndarray | None = None) -> dict[int, int]:
        """Count the pixels of each label that occurs: label -> pixels, in descending order, unsure last.

        Args:
            where: bool H x W, the pixels to count. Default: all.
        """
        labels = self.labels.ravel() if where is None else self.labels[where]
        # Maps consist of long runs of one label, and there are far fewer of these than pixels.
        starts = np.flatnonzero(labels[1:] != labels[:-1]) + 1
        lengths = np.diff(starts, prepend=0, append=labels.size)
        numbers = np.bincount(labels[np.append(0, starts)] - UNSURE, lengths) if labels.size else np.zeros(0)
        found = [(int(position) + UNSURE, int(numbers[position])) for position in np.flatnonzero(numbers)]
        return dict(sorted(found, key=lambda item: (item[0] == UNSURE, -item[1], item[0])))

    def counting_once(self) -> LabelMap:
        """Return the same map, which counts its pixels only once: for as long as nobody changes the labels."""
        return _CountingOnce(**{each.name: getattr(self, each.name) for each in fields(self)})

    def shares(self, where: np.ndarray | None = None) -> dict[str, float]:
        """Return the share of each label that occurs: name -> fraction of the pixels, in descending order, unsure last.

        The fractions add up to 1; without any pixel, the result is empty.

        Args:
            where: bool H x W, the pixels to count. Default: all.

        Example:
            >>> import upernet
            >>> upernet.load("camvid")("street.jpg").object.shares()
            {'Road': 0.41, 'Building': 0.28, ...}
        """
        counts = self.counts(where)
        total = sum(counts.values())
        return {self.name(label): count / total for label, count in counts.items()}

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = [f"{printable(name)} {percent(share)}" for name, share in self.shares().items()]
        more = [f"{len(shares) - LISTED} more"] if len(shares) > LISTED else []
        classes = len(self.names) - self.background
        listed = ", ".join([*shares[:LISTED], *more])
        return f"<LabelMap {self.level}, {width} x {height} pixels, {classes} classes: {listed}>"


class _CountingOnce(LabelMap):
    @cached_property
    def _all(self) -> dict[int, int]:
        return super().counts()

    def counts(self, where: np.ndarray | None = None) -> dict[int, int]:
        return dict(self._all) if where is None else super().counts(where)
