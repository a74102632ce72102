"""What all sources share: folders and splits, the listing, the annotations of each level, and reading samples."""

# The stubs of numpy and torch leave the types of many arrays unknown.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

from upernet.data.images import read_image, read_mask
from upernet.data.sample import Sample
from upernet.data.sources.annotations import ImageLabels, Masks
from upernet.data.sources.tables import LabelTable
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, SourceSpec, TableSpec
from upernet.taxonomy import IGNORE, Taxonomy


class SourceMissing(UpernetError):  # noqa: N818 (a state of the data, which callers may accept)
    """The source, or the split, does not exist; callers may go on without it if they say so."""


@dataclass(frozen=True)
class Photo:
    """A listed photo, with the masks that belong to it and its image labels."""

    path: Path
    masks: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """level -> mask."""
    labels: Mapping[str, int] = field(default_factory=dict[str, int])
    """level -> label."""


class Source(ABC):
    """A sequence of the samples of one split, sorted by file name.

    Attributes:
        name: The key under `sources` of the recipe.
        spec: Its settings.
        levels: The levels that the samples annotate; those with annotations of their own come first.
        implied: The levels whose labels are implied.
        photos: What was listed; `source[i]` reads `photos[i]`.
        masks: level -> its masks.
        labels: level -> its image labels.
    """

    layout = "put photos there"
    """The folders that the source expects, in the words of an error."""

    def __init__(self, name: str, spec: SourceSpec, taxonomy: Taxonomy, data_dir: Path, split: str) -> None:
        self.name = name
        self.spec = spec
        self.taxonomy = taxonomy
        self.data_dir = data_dir
        self.split = split
        self.folders = self._find_folders()
        self.masks: dict[str, Masks] = {}
        self.labels: dict[str, ImageLabels] = {}
        self.tables: dict[str, list[LabelTable]] = {}
        for level, annotation in spec.levels.items():
            self._read_annotations(level, annotation)
        annotated = (*self.masks.values(), *self.labels.values())
        self.image_labels = {level: label for own in annotated for level, label in own.image_labels.items()}
        implied = [level for own in annotated for level in own.spec.implies]
        for level in implied:
            if level in spec.levels or implied.count(level) > 1:
                raise UpernetError(f"sources.{name}: the labels of level {level} come from two places; keep one.")
        self.implied = frozenset(implied)
        self.levels = (*spec.levels, *implied)
        self.photos = [self._with_table_labels(photo) for photo in self._list() if self._in_split(photo.path)]

    def __len__(self) -> int:
        """Return the number of photos in the split."""
        return len(self.photos)

    def __getitem__(self, index: int) -> Sample:
        """Read the photo and its annotations.

        Raises:
            UpernetError: The photo or a mask cannot be used; the message names the file.
        """
        photo = self.photos[index]
        masks = {level: self.read_mask(photo, level) for level in self.masks if level in photo.masks}
        for level, mask in masks.items():
            unmapped = self.masks[level].unmapped_values(mask)
            if unmapped:
                row, column = (int(position[0]) for position in np.nonzero(mask == unmapped[0]))
                problem = self.masks[level].outside(unmapped)
                raise UpernetError(f"{photo.masks[level]}: row {row}, column {column}: {problem}")
        image = self.read_photo(photo)
        maps: dict[str, NDArray[np.int16]] = {}
        for level, own in self.masks.items():
            if level in masks:
                mask = masks[level]
                problem = self.size_problem(photo, level, (mask.shape[1], mask.shape[0]), image.size)
                if problem:
                    raise UpernetError(problem)
                maps |= own.maps(mask)
            elif own.spec.required:
                raise UpernetError(f"{photo.path}: has no mask of level {level}; add it or take the photo away.")
            else:
                maps |= own.unknown_maps((image.height, image.width))
        labels: dict[str, int] = {}
        for level, own in self.labels.items():
            labels |= own.labels(photo.labels.get(level, IGNORE))
        inside = photo.path.is_relative_to(self.data_dir)  # not if the recipe gives an absolute path
        return Sample(
            # A view of H x W x 3: torchvision resizes this memory order fastest.
            image=tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1)),
            maps={level: tv_tensors.Mask(torch.from_numpy(value)) for level, value in maps.items()},
            labels={**labels, **self.image_labels},
            implied=self.implied,
            key=(photo.path.relative_to(self.data_dir) if inside else photo.path).as_posix(),
        )

    @abstractmethod
    def _list(self) -> Sequence[Photo]:
        """Return all photos of `folders`, sorted, whatever the split."""

    def key_of(self, level: str) -> str:
        """Return the keys that lead to the annotation of `level` in the recipe."""
        return f"sources.{self.name}{self.spec.key_of(level)}"

    def paths_of(self, table: str) -> list[Path]:
        """Return the table of each folder of the split."""
        return [self.data_dir / table.replace("{split}", part) for part in self._parts()]

    def problems(self) -> list[str]:
        """Return what is wrong with the files, as far as their names show, each with the fix."""
        if self.photos:
            return []
        places = " and ".join(str(folder) for folder in self.folders)
        if self._holds_back:
            share = f"sources.{self.name}.held_back"
            return [f"{places}: none of its photos fall into split {self.split}; change {share} or add photos."]
        return [f"{places}: no photos of source {self.name} in there; {self.layout}."]

    def empty_folders(self) -> list[Path]:
        """Return the folders that should hold photos and do not."""
        return []

    def read_photo(self, photo: Photo) -> Image.Image:
        """Decode the photo alone. Raises the errors of `read_image`."""
        return read_image(photo.path)

    def read_mask(self, photo: Photo, level: str) -> NDArray[Any]:
        """Read the values of a mask, H x W. Raises the errors of `upernet.data.images.read_mask`."""
        return read_mask(photo.masks[level])

    def size_problem(
        self, photo: Photo, level: str, mask_size: tuple[int, int], photo_size: tuple[int, int]
    ) -> str | None:
        """Describe how a mask and its (upright) photo differ in width and height, and the fix; None if they do not."""
        if mask_size == photo_size:
            return None
        return (
            f"{photo.masks[level]}: is {mask_size[0]} x {mask_size[1]} pixels, but its photo {photo.path.name} is "
            f"{photo_size[0]} x {photo_size[1]} (upright); resize the mask with nearest neighbor, or export it again."
        )

    def _read_annotations(self, level: str, annotation: AnnotationSpec) -> None:
        """Prepare the annotations of a level; here, those that come from a table."""
        assert isinstance(annotation, TableSpec)
        self.labels[level] = ImageLabels(self.taxonomy, level, annotation, self.key_of(level), None)
        self.tables[level] = [
            LabelTable(path, annotation.photo_column, [annotation.column]) for path in self.paths_of(annotation.table)
        ]

    def _with_table_labels(self, photo: Photo) -> Photo:
        """Add the labels of the tables, which name photos by their path in the folder, or by their file name."""
        labels = dict(photo.labels)
        for level, tables in self.tables.items():
            annotation = self.spec.levels[level]
            assert isinstance(annotation, TableSpec)
            for folder, table in zip(self.folders, tables, strict=True):
                if photo.path.is_relative_to(folder):
                    path = photo.path.relative_to(folder).as_posix()
                    row = table.rows.get(path) or table.rows.get(photo.path.name)
                    if row is not None:
                        labels[level] = self.labels[level].of_row(table, row, annotation.column)
                    elif annotation.required:
                        raise UpernetError(
                            f"{table.path}: does not list {path}; add a row, or set `required: false` in "
                            f"{self.key_of(level)}."
                        )
        return Photo(photo.path, photo.masks, labels)

    @property
    def _holds_back(self) -> bool:
        """Whether the folder of `train` is divided into `train` and `held_back`."""
        return self.spec.held_back > 0 and "held_back" not in self.spec.splits and self.split in ("train", "held_back")

    def _parts(self) -> list[str]:
        """Return what `{split}` stands for: one or several names."""
        names: Mapping[str, str] = {**self.spec.splits}
        name = names.get("train" if self._holds_back else self.split)
        if name is None:
            raise SourceMissing(
                f"source {self.name} has no split {self.split}; name its folder under sources.{self.name}.splits "
                f"(there: {', '.join(self.spec.splits) or 'none'})."
            )
        return [part.strip() for part in name.split("+")]

    def _find_folders(self) -> list[Path]:
        folders = [self.data_dir / self.spec.path.replace("{split}", part) for part in self._parts()]
        for folder in folders:
            if not folder.is_dir():
                raise SourceMissing(
                    f"{folder}: no such folder, so source {self.name} has no {self.split} photos; "
                    "put the data set there or give another data directory."
                )
        return folders

    def _in_split(self, path: Path) -> bool:
        if not self._holds_back:
            return True
        digest = blake2b(path.stem.encode(), digest_size=8).digest()
        held_back = int.from_bytes(digest, "big") < self.spec.held_back * 2**64
        return held_back == (self.split == "held_back")
