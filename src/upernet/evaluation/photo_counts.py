"""What was counted in each photo of an evaluation: small enough to keep, and enough to compare two models.

The file is an .npz archive without pickled objects, which `numpy.load` reads: the array `about` holds JSON in UTF-8,
and each level has four arrays of equal length, one entry per cell of a photo's confusion matrix that is not zero.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from upernet.distributed import gather_over_processes
from upernet.errors import UpernetError
from upernet.evaluation.confusion import ConfusionMatrix
from upernet.files import atomic_path
from upernet.taxonomy import LEVEL_KINDS, LEVELS

Kind = Literal["pixels", "parts", "labels"]
KINDS = get_args(Kind)
Ints = NDArray[np.int64]
VERSION = 1
COLUMNS = ("photo", "true", "predicted", "count")
NOT_SCORED = -1
"""Group of the classes that no score counts."""


class Photo(NamedTuple):
    """A photo of an evaluation."""

    source: str
    position: int
    """Index in the source."""
    key: str
    """Path below the data folder."""
    scored: bool
    """Whether its source counts in the scores of the levels."""


class Confusion(NamedTuple):
    """A confusion matrix and what its classes are."""

    matrix: ConfusionMatrix
    names: tuple[str, ...]
    """One name per class; of parts, "object/part" for each part of each object."""
    groups: tuple[int, ...]
    """The group of each class, or `NOT_SCORED`. The mIoU is the mean over groups of the mean over their classes: a
    group per object with parts, one group otherwise."""


@dataclass(frozen=True)
class LevelCounts:
    """The confusion matrices of one level, photo by photo, as the cells that are not zero."""

    level: str
    kind: Kind
    names: tuple[str, ...]
    """See `Confusion`."""
    groups: tuple[int, ...]
    """See `Confusion`."""
    cells: Ints
    """int64 4 x N: photo, true class, predicted class (the number of classes: none), and count."""

    @property
    def title(self) -> str:
        """The level; of a dense one, also whether its photos have image labels."""
        return f"{self.level} (image labels)" if self.kind == "labels" and LEVEL_KINDS[self.level].dense else self.level

    @property
    def unit(self) -> str:
        """What is counted."""
        return "photos" if self.kind == "labels" else "pixels"

    @property
    def scored_classes(self) -> list[int]:
        """The classes that count in scores."""
        return [c for c, group in enumerate(self.groups) if group != NOT_SCORED]

    def matrix(self, photos: Sequence[int] | None = None) -> ConfusionMatrix:
        """Return the sum of the confusion matrices of `photos` (None: all)."""
        _, true, predicted, count = self._cells_of(photos)
        matrix = ConfusionMatrix(len(self.names))
        cells = torch.as_tensor(true * (len(self.names) + 1) + predicted)
        matrix.counts.view(-1).index_add_(0, cells, torch.as_tensor(count))
        return matrix

    def totals(self, photos: Sequence[int]) -> Ints:
        """Return the true, predicted and correct counts per photo and class: int64 3 x P x K.

        Args:
            photos: The photos, in the order of the result.
        """
        place = np.full(max([*photos, *self.cells[0].tolist()], default=0) + 1, -1)
        place[list(photos)] = range(len(photos))
        photo, true, predicted, count = self._cells_of(photos)
        totals: Ints = np.zeros((3, len(photos), len(self.names) + 1), np.int64)
        np.add.at(totals[0], (place[photo], true), count)
        np.add.at(totals[1], (place[photo], predicted), count)
        same = true == predicted
        np.add.at(totals[2], (place[photo[same]], true[same]), count[same])
        return totals[..., :-1]

    def photos(self) -> list[int]:
        """Return the photos in which anything was counted, in ascending order."""
        return np.unique(self.cells[0]).tolist()

    def _cells_of(self, photos: Sequence[int] | None) -> Ints:
        return self.cells if photos is None else self.cells[:, np.isin(self.cells[0], np.asarray(photos, np.int64))]


@dataclass(frozen=True)
class PhotoCounts:
    """The counts of every photo of an evaluation, per level and kind of annotation."""

    photos: tuple[Photo, ...]
    levels: tuple[LevelCounts, ...]

    def scored(self, level: LevelCounts) -> list[int]:
        """Return the photos that count in the score of `level`."""
        return [photo for photo in level.photos() if self.photos[photo].scored]

    def save(self, path: str | Path) -> None:
        """Write the counts to an .npz file atomically. Raises the errors of `atomic_path`."""
        about = {
            "version": VERSION,
            "photos": [list(photo) for photo in self.photos],
            "levels": [
                {"level": level.level, "kind": level.kind, "names": level.names, "groups": level.groups}
                for level in self.levels
            ],
        }
        arrays: dict[str, NDArray[Any]] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
        for number, level in enumerate(self.levels):
            photo, true, predicted, count = level.cells
            small = (photo.astype(np.int32), true.astype(np.int16), predicted.astype(np.int16), count)
            arrays |= {f"{column}_{number}": values for column, values in zip(COLUMNS, small, strict=True)}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: str | Path) -> PhotoCounts:
        """Read the counts that `save` wrote.

        Raises:
            UpernetError: The file is missing or is not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return _from_arrays(file)
        except FileNotFoundError:
            raise UpernetError(f"{path}: no such file; write it with `upernet evaluate --out`.") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise UpernetError(
                f"{path}: not the counts of an evaluation ({error}); write them again with `upernet evaluate --out`."
            ) from None


class PhotoCounter:
    """Collects the counts of photos, one photo at a time, in any number of processes."""

    def __init__(self) -> None:
        self._cells: list[tuple[Photo, dict[tuple[str, Kind], Ints]]] = []
        self._classes: dict[tuple[str, Kind], tuple[tuple[str, ...], tuple[int, ...]]] = {}

    def add(self, photo: Photo, confusions: Mapping[tuple[str, Kind], Confusion]) -> None:
        """Add what was counted in one photo, per level and kind of annotation."""
        cells: dict[tuple[str, Kind], Ints] = {}
        for key, (matrix, names, groups) in confusions.items():
            self._classes.setdefault(key, (names, groups))
            true, predicted = matrix.counts.nonzero(as_tuple=True)
            cells[key] = torch.stack([true, predicted, matrix.counts[true, predicted]]).numpy()
        self._cells.append((photo, cells))

    def result(self) -> PhotoCounts:
        """Return the counts of all photos of all processes; every process calls it once.

        The photos are in the order of the sources, and within a source in its own order.
        """
        everywhere = gather_over_processes((self._cells, self._classes))
        classes = {key: names for _, found in everywhere for key, names in found.items()}
        sources = {photo.source: None for cells, _ in everywhere for photo, _ in cells}
        order = {source: number for number, source in enumerate(sources)}
        photos = sorted(
            (entry for cells, _ in everywhere for entry in cells),
            key=lambda entry: (order[entry[0].source], entry[0].position),
        )
        levels: list[LevelCounts] = []
        for level, kind in sorted(classes, key=lambda key: (LEVELS.index(key[0]), KINDS.index(key[1]))):
            names, groups = classes[level, kind]
            cells = [
                np.insert(found[level, kind], 0, number, axis=0)
                for number, (_, found) in enumerate(photos)
                if (level, kind) in found
            ]
            levels.append(LevelCounts(level, kind, names, groups, np.concatenate(cells, axis=1)))
        return PhotoCounts(tuple(photo for photo, _ in photos), tuple(levels))


def _from_arrays(file: Mapping[str, NDArray[Any]]) -> PhotoCounts:
    about: dict[str, Any] = json.loads(file["about"].tobytes())
    if about["version"] != VERSION:
        raise ValueError(f"version {about['version']}")
    photos = tuple(
        Photo(str(source), int(position), str(key), bool(scored)) for source, position, key, scored in about["photos"]
    )
    levels: list[LevelCounts] = []
    for number, values in enumerate(about["levels"]):
        names, groups = tuple(map(str, values["names"])), tuple(map(int, values["groups"]))
        cells = np.stack([file[f"{column}_{number}"].astype(np.int64) for column in COLUMNS])
        limits = np.array([[len(photos)], [len(names)], [len(names) + 1]])
        if values["level"] not in LEVEL_KINDS or values["kind"] not in KINDS:
            raise ValueError("unknown level")
        if len(groups) != len(names) or cells.min(initial=0) < 0 or (cells[:3] >= limits).any():
            raise ValueError("cells out of range")
        levels.append(LevelCounts(str(values["level"]), values["kind"], names, groups, cells))
    return PhotoCounts(photos, tuple(levels))
