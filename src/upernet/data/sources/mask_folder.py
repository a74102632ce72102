"""Photos in a folder; masks of the same size at the same places in a folder per level, or a table of labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from upernet.data.images import is_photo
from upernet.data.sources.annotation import LevelAnnotation, LevelLabels, LevelMasks, Photo
from upernet.data.sources.mapping import read_label_names
from upernet.data.sources.source import FolderSource, SourceMissing
from upernet.data.sources.table import read_table
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, MaskFolderSpec, MaskSpec, MaskValueSpec, TableSpec
from upernet.taxonomy import Level

MASK_SUFFIXES = frozenset((".png", ".bmp", ".tif", ".tiff", ".gif"))
"""Suffixes of masks, in lower case; JPEG would blur them."""


class MaskFolder(FolderSource):
    """Samples with one label map per annotated dense level, image labels from tables, and what these imply."""

    layout = "photos belong in its folder images/, masks in annotations/"

    def problems(self) -> list[str]:
        """Return what is wrong with the files, each with the fix; see `Source.problems`."""
        found = super().problems()
        for annotation in self.annotations.values():
            if isinstance(annotation, LevelMasks):
                found += self._missing_masks(annotation)
            elif isinstance(annotation, LevelLabels):
                found += [*annotation.problems(), *self._missing_rows(annotation)]
        return found

    def _missing_masks(self, annotation: LevelMasks) -> list[str]:
        level = annotation.level.name
        missing = [photo.path for photo in self.photos if photo.masks[level] is None]
        if not missing or (annotation.optional and len(missing) < len(self.photos)):
            return []
        number = next(i for i, folder in enumerate(self._photo_folders()) if missing[0].is_relative_to(folder))
        folder = self._mask_folder(number, annotation.spec)
        if annotation.optional:
            where = f"{annotation.where}.folder"
            return [
                f"{folder}: no photo of source {self.name} has a mask in this folder; correct {where} or add masks."
            ]
        more = f" ({len(missing)} photos of source {self.name} have none)" if len(missing) > 1 else ""
        own = missing[0].relative_to(self._photo_folders()[number])
        mask = folder / own.parent / _mask_name(own, self._photo_name, annotation.spec)
        return [f"{missing[0]}: has no mask {mask}.png{more}; add it or remove the photo."]

    def _missing_rows(self, annotation: LevelLabels) -> list[str]:
        spec = annotation.spec
        missing = [photo.path for photo in self.photos if annotation.level.name not in photo.labels]
        if not missing or not isinstance(spec, TableSpec) or (spec.optional and len(missing) < len(self.photos)):
            return []
        if spec.optional:
            return [f"{spec.table}: no photo of source {self.name} has a row; give paths such as images/1.jpg."]
        more = f" ({len(missing)} photos of source {self.name} have none)" if len(missing) > 1 else ""
        return [
            f"{missing[0]}: has no row in {spec.table}{more}; add it, remove the photo, or set "
            f"{annotation.where}.optional."
        ]

    def _annotation(self, where: str, level: Level, spec: AnnotationSpec) -> LevelAnnotation:
        if isinstance(spec, TableSpec):
            return LevelLabels(where, level, spec, self.taxonomy)
        assert isinstance(spec, MaskValueSpec)
        optional = isinstance(spec, MaskSpec) and spec.optional
        return LevelMasks(where, level, spec, self.taxonomy, self._value_names(spec), optional)

    def _value_names(self, spec: MaskValueSpec) -> dict[int, str]:
        """Return the names of the mask values, from labels.txt beside the masks, the folders or above."""
        if spec.colors is not None:
            return {}
        masks = [self._mask_folder(number, spec) for number in range(len(self.folders))]
        try:
            if all(os.path.isfile(folder / "labels.txt") for folder in masks):
                return read_label_names(masks)
            return read_label_names(self.folders)
        except UpernetError:
            if spec.classes and all(map(str.isdecimal, spec.classes)):
                return {}  # the recipe says what the values mean, so a labels.txt of another form is no mistake
            raise

    def _list(self) -> Sequence[Photo]:
        labels = self._read_tables()
        specs = {
            level: annotation.spec
            for level, annotation in self.annotations.items()
            if isinstance(annotation, LevelMasks)
        }
        photos: list[Photo] = []
        for number, folder in enumerate(self._photo_folders()):
            folders = {level: self._mask_folder(number, spec) for level, spec in specs.items()}
            paths = [
                path
                for path in self._files_below(folder)
                if is_photo(path) and self._is_own(path, folder, folders, specs)
            ]
            for first, second in pairwise(sorted(paths, key=lambda path: (path.parent, path.stem, path.name))):
                if specs and (first.parent, first.stem) == (second.parent, second.stem):
                    raise UpernetError(
                        f"{second}: has the mask of {first.name}, too; take one of the photos away or rename it."
                    )
            masks = {level: masks_by_name(self._files_below(place), place) for level, place in folders.items()}
            for path in sorted(paths, key=lambda path: (path.parent, path.stem, path.name)):
                own = path.relative_to(folder)
                own_masks = {
                    level: masks[level].get((own.parent, _mask_name(own, self._photo_name, spec)))
                    for level, spec in specs.items()
                }
                photos.append(Photo(path, own_masks, labels.get(path, {})))
        return photos

    def _is_own(
        self, path: Path, folder: Path, mask_folders: Mapping[str, Path], specs: Mapping[str, AnnotationSpec]
    ) -> bool:
        """Return whether a photo below `folder` is one of the source, and not one of its masks."""
        if common_name(path.stem, self._photo_name) is None:
            return False
        for level, mask_folder in mask_folders.items():
            if path.is_relative_to(mask_folder):
                beside = folder.is_relative_to(mask_folder)  # then only its name tells a mask from a photo
                pattern = _pattern(specs[level])
                if not beside or (pattern != "*" and common_name(path.stem, pattern) is not None):
                    return False
        return True

    @property
    def _photo_name(self) -> str:
        return self.spec.photo_name if isinstance(self.spec, MaskFolderSpec) else "*"

    def _read_tables(self) -> dict[Path, dict[str, int]]:
        """Return the image labels of the photos that the tables list, by level."""
        labels: dict[Path, dict[str, int]] = {}
        for level, annotation in self.annotations.items():
            if isinstance(annotation, LevelLabels) and isinstance(annotation.spec, TableSpec):
                for folder in self.folders:
                    for row in read_table(folder / annotation.spec.table, [annotation.spec.column]):
                        label = row.label(annotation, annotation.spec.column)
                        labels.setdefault(row.photo, {})[level] = label
        return labels

    def _find_folders(self) -> tuple[list[str], list[Path]]:
        names, folders = super()._find_folders()
        if isinstance(self.spec, MaskFolderSpec) and "{split}" in self.spec.photos:
            for name, folder in zip(names, folders, strict=True):
                photos = folder / self.spec.photos.replace("{split}", name)
                if not os.path.isdir(photos):
                    raise SourceMissing(
                        f"{photos}: no such folder, so source {self.name} has no {self.split} photos; "
                        "put the data set there or give another data directory."
                    )
        return names, folders

    def _photo_folders(self) -> list[Path]:
        photos = self.spec.photos if isinstance(self.spec, MaskFolderSpec) else "images"
        return [
            folder / photos.replace("{split}", name)
            for name, folder in zip(self.split_names, self.folders, strict=True)
        ]

    def _mask_folder(self, number: int, spec: AnnotationSpec) -> Path:
        """Return the folder of the masks in `folders[number]`."""
        folder = spec.folder if isinstance(spec, MaskSpec) else "annotations"
        return self.folders[number] / folder.replace("{split}", self.split_names[number])


def masks_by_name(files: Iterable[Path], folder: Path) -> dict[tuple[Path, str], Path]:
    """Return the masks among `files` by (their folder below `folder`, their name without suffix)."""
    masks = (path for path in files if path.suffix.lower() in MASK_SUFFIXES)
    return {(path.relative_to(folder).parent, path.stem): path for path in sorted(masks, reverse=True)}


def common_name(stem: str, pattern: str) -> str | None:
    """Return what `*` stands for if the name `stem` fits `pattern`, else None."""
    before, _, after = pattern.partition("*")
    fits = len(stem) > len(before) + len(after) and stem.startswith(before) and stem.endswith(after)
    return stem[len(before) : len(stem) - len(after)] if fits else None


def _mask_name(photo: Path, photo_name: str, spec: AnnotationSpec) -> str:
    return _pattern(spec).replace("*", common_name(photo.stem, photo_name) or photo.stem)


def _pattern(spec: AnnotationSpec) -> str:
    return spec.name if isinstance(spec, MaskSpec) else "*"


SOURCE = MaskFolder
