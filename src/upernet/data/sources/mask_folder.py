"""Photos in `images/`, label maps of the same base name and size in `annotations/`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from upernet.data.images import is_photo, read_mask
from upernet.data.sample import Sample
from upernet.data.sources.mapping import OUTSIDE, check_owners, value_table
from upernet.data.sources.source import Photo, Source
from upernet.errors import UpernetError
from upernet.recipe import SourceSpec
from upernet.taxonomy import IGNORE, Taxonomy


class MaskFolder(Source):
    """Samples with a label map of the source's own level, and maps of the levels that its classes imply."""

    layout = "photos belong in its folder images/, masks in annotations/"

    def __init__(self, name: str, spec: SourceSpec, taxonomy: Taxonomy, data_dir: Path, split: str) -> None:
        super().__init__(name, spec, taxonomy, data_dir, split)
        if not self._dense(spec.level):
            raise UpernetError(f"sources.{name}.level: {spec.level} is one label per photo; use kind: label_folder.")
        for level in self.implied:
            if not self._dense(level):
                where = f"sources.{name}.implies.{level}"
                raise UpernetError(f"{where}: is one label per photo, which no pixel can imply; give one class name.")
        self.table = value_table(name, spec, self.level, self.label_names)
        self.tables = {spec.level: self.table, **{level: self._through(own) for level, own in self.implied.items()}}
        if spec.level == "part":
            if "object" not in self.implied:
                raise UpernetError(
                    f"sources.{name}.implies: parts need the object they belong to, for instance "
                    'implies: {object: {"*": person}}.'
                )
            check_owners(name, taxonomy, self.table, self.implied["object"])

    def __getitem__(self, index: int) -> Sample:
        photo = self.photos[index]
        mask = self.read_mask(photo)
        unmapped = self.unmapped_values(mask)
        if unmapped:
            row, column = np.argwhere(mask == unmapped[0])[0].tolist()
            raise UpernetError(f"{photo.mask}: row {row}, column {column}: {self.outside(unmapped)}")
        image = self.read_photo(photo)
        problem = self.size_problem(photo, (mask.shape[1], mask.shape[0]), image.size)
        if problem:
            raise UpernetError(problem)
        return self._sample(photo, {level: _look_up(table, mask) for level, table in self.tables.items()}, {}, image)

    def read_mask(self, photo: Photo) -> np.ndarray:
        """Values of the mask, H x W, mapped or not. Raises UpernetError if there is no mask or it cannot be read."""
        if photo.mask is None:
            raise UpernetError(self._missing_mask(photo))
        return read_mask(photo.mask)

    def unmapped_values(self, mask: np.ndarray) -> list[int]:
        """The values of a mask that the source does not map, sorted."""
        outside = _look_up(self.table, mask) == OUTSIDE
        return np.unique(mask[outside]).tolist() if outside.any() else []

    def size_problem(self, photo: Photo, mask_size: tuple[int, int], photo_size: tuple[int, int]) -> str | None:
        """What is wrong, and the fix, if mask and (upright) photo differ in width and height."""
        if mask_size == photo_size:
            return None
        return (
            f"{photo.mask}: is {mask_size[0]} x {mask_size[1]} pixels, but its photo {photo.path.name} is "
            f"{photo_size[0]} x {photo_size[1]} (upright); resize the mask with nearest neighbour, or export it again."
        )

    def outside(self, values: Sequence[int], shown: int = 8) -> str:
        """What is wrong with mask values that are not mapped, and the fix."""
        called = [
            f"{value} ({self.label_names[value]})" if value in self.label_names else str(value) for value in values
        ]
        more = f", ... ({len(values)} values in all)" if len(values) > shown else ""
        plural = len(values) > 1
        subject = f"value{'s' if plural else ''} {', '.join(called[:shown])}{more} {'are' if plural else 'is'}"
        them, key = ("them" if plural else "it"), repr(self.label_names.get(values[0], str(values[0])))
        return (
            f"{subject} not mapped to a class of level {self.level.name}; map {them} under sources.{self.name}.classes "
            f"({key}: a class, or null for unknown) or list {them} in sources.{self.name}.ignore."
        )

    def problems(self) -> list[str]:
        missing = [photo for photo in self.photos if photo.mask is None]
        if not missing:
            return super().problems()
        more = f" ({len(missing)} photos of source {self.name} have none)" if len(missing) > 1 else ""
        return [*super().problems(), self._missing_mask(missing[0]) + more]

    def _missing_mask(self, photo: Photo) -> str:
        expected = self._mask_folder(photo.path.parent) / f"{photo.path.stem}.png"
        return f"{photo.path}: has no mask {expected}; add it or take the photo away."

    def _through(self, other: np.ndarray) -> np.ndarray:
        """Table from mask values to the level that a table `own label -> other label` leads to."""
        return np.where(self.table >= 0, other[np.maximum(self.table, 0)], IGNORE).astype(np.int16)

    def _list(self) -> Sequence[Photo]:
        photos = []
        for folder in self._photo_folders():
            masks = self._mask_folder(folder)
            known = {path.stem: path for path in masks.iterdir() if _is_mask(path)} if masks.is_dir() else {}
            files = filter(is_photo, folder.iterdir()) if folder.is_dir() else ()
            paths = sorted(files, key=lambda path: (path.stem, path.name))
            for first, second in pairwise(paths):
                if first.stem == second.stem:
                    raise UpernetError(
                        f"{second}: has the mask of {first.name}, too; take one of the photos away or rename it."
                    )
            photos += [Photo(path, mask=known.get(path.stem)) for path in paths]
        return photos

    def _photo_folders(self) -> list[Path]:
        return [folder / "images" for folder in self.folders]

    def _mask_folder(self, photo_folder: Path) -> Path:
        return photo_folder.parent / "annotations"

    @staticmethod
    def _dense(level: str) -> bool:
        return level not in ("scene", "texture")


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() == ".png" and not path.name.startswith(".")


def _look_up(table: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """int16 labels of mask values; anything beyond the table is `OUTSIDE`."""
    if mask.dtype == np.uint8:
        return table[:256].take(mask, mode="clip")  # five times faster than indexing
    inside = (mask >= 0) & (mask < len(table))
    return np.where(inside, table[np.where(inside, mask, 0)], np.int16(OUTSIDE)).astype(np.int16)
