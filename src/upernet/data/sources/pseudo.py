"""Pseudo-labels: masks that a network has made, for photos or pixels that the source does not label."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from upernet.data.candidates import CandidateSets
from upernet.data.images import read_mask
from upernet.data.sources.annotation import Photo, size_problem
from upernet.data.sources.mapping import OUTSIDE, look_up, read_label_names, value_table
from upernet.errors import UpernetError
from upernet.recipe import PseudoLabelSpec
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Level


class PseudoLabels:
    """The pseudo-labels of one level. Each class is a candidate set of its own, so that its loss has its own weight.

    Args:
        where: Key of the recipe that describes them, for errors.
        level: The level.
        spec: Their settings.
        data_dir: Folder that contains the folders of the sources.
        split_names: Folder name of the split in each folder of the source.
        candidates: Receives the candidate sets.

    Attributes:
        names: Names of the values.
        table: int16 table from values to labels and candidate sets of the level; `OUTSIDE` where a value is not mapped.

    Raises:
        UpernetError: The folder is missing, or the class mapping does not fit the taxonomy.
    """

    def __init__(
        self,
        where: str,
        level: Level,
        spec: PseudoLabelSpec,
        data_dir: Path,
        split_names: Sequence[str],
        candidates: CandidateSets,
    ) -> None:
        if not LEVEL_KINDS[level.name].dense or LEVEL_KINDS[level.name].owned_by is not None:
            raise UpernetError(f"{where}: pseudo-labels are masks of objects, materials or textures; remove them.")
        self.where = where
        self.candidates = candidates
        self.folders = [data_dir / spec.folder.replace("{split}", name) for name in split_names]
        for folder in self.folders:
            if not os.path.isdir(folder):
                raise UpernetError(f"{folder}: no such folder; correct {where}.folder, or remove {where}.")
        self.names = names = read_label_names([_folder_of_names(folder, data_dir) for folder in self.folders])
        own = CandidateSets()
        self.table = value_table(where, spec.classes, level, names, spec.ignore, own, spec.weight)
        for value, label in enumerate(self.table.tolist()):
            if label not in (IGNORE, OUTSIDE):
                labels = own.labels(label) if label < IGNORE else {label}
                self.table[value] = candidates.code(labels, spec.weight)
        self._masks: dict[Path, Path] = {}

    def find(self, photos: Sequence[Photo], photo_folders: Sequence[Path]) -> None:
        """Find the masks of `photos`, which are below `photo_folders` (one for each folder of masks).

        Raises:
            UpernetError: No photo has a mask.
        """
        for photo in photos:
            for masks, folder in zip(self.folders, photo_folders, strict=True):
                if photo.path.is_relative_to(folder):
                    mask = masks / photo.path.relative_to(folder).with_suffix(".png")
                    if os.path.isfile(mask):
                        self._masks[photo.path] = mask
        if photos and not self._masks:
            raise UpernetError(f"{self.folders[0]}: no photo has a mask in this folder; correct {self.where}.folder.")

    def fill(self, labels: np.ndarray | None, photo: Photo, size: tuple[int, int]) -> np.ndarray:
        """Return the label map of `photo` with pseudo-labels where it does not name a class.

        Args:
            labels: int16 H x W; None: nothing is known.
            photo: The photo.
            size: Its width and height.

        Raises:
            UpernetError: The mask cannot be read, differs from the photo in size, or has a value that is not mapped.
        """
        if labels is None:
            labels = np.full(size[::-1], IGNORE, np.int16)
        path = self._masks.get(photo.path)
        if path is None:
            return labels
        mask = read_mask(path)
        if problem := size_problem(path, photo, (mask.shape[1], mask.shape[0]), size):
            raise UpernetError(problem)
        pseudo = look_up(self.table, mask)
        if (outside := mask[pseudo == OUTSIDE]).size:
            raise UpernetError(f"{path}: value {int(outside[0])} is not mapped; list it under {self.where}.classes.")
        # The source's own "one of several" and "none of these" are weaker than a named class.
        return np.where((labels < 0) & (pseudo != IGNORE), pseudo, labels)


def _folder_of_names(folder: Path, data_dir: Path) -> Path:
    """Return the nearest folder with a `labels.txt`: `folder` or one above it, inside the data directory."""
    for place in (folder, *folder.parents):
        if os.path.isfile(place / "labels.txt"):
            return place
        if place == data_dir:
            break
    return folder
