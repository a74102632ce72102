"""Photos in `images/`; masks of the same base name and size in a folder per level beside it, or a table of labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from upernet.data.images import is_photo
from upernet.data.sources.annotation import LevelAnnotation, LevelLabels, LevelMasks, Photo
from upernet.data.sources.mapping import read_label_names
from upernet.data.sources.source import Source
from upernet.data.sources.table import read_table
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, MaskSpec, MaskValueSpec, TableSpec
from upernet.taxonomy import Level


class MaskFolder(Source):
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
        folder = self._mask_folder(missing[0].parent, annotation.spec)
        if annotation.optional:
            where = f"{annotation.where}.folder"
            return [
                f"{folder}: no photo of source {self.name} has a mask in this folder; correct {where} or add masks."
            ]
        more = f" ({len(missing)} photos of source {self.name} have none)" if len(missing) > 1 else ""
        return [f"{missing[0]}: has no mask {folder / missing[0].stem}.png{more}; add it or remove the photo."]

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
        masks = [self._mask_folder(folder, spec) for folder in self._photo_folders()]
        if all((folder / "labels.txt").is_file() for folder in masks):
            return read_label_names(masks)
        return read_label_names(self.folders)

    def _list(self) -> Sequence[Photo]:
        labels = self._read_tables()
        photos: list[Photo] = []
        for folder in self._photo_folders():
            masks = {
                level: _masks_by_stem(self._mask_folder(folder, annotation.spec))
                for level, annotation in self.annotations.items()
                if isinstance(annotation, LevelMasks)
            }
            files = filter(is_photo, folder.iterdir()) if folder.is_dir() else ()
            paths = sorted(files, key=lambda path: (path.stem, path.name))
            for first, second in pairwise(paths):
                if masks and first.stem == second.stem:
                    raise UpernetError(
                        f"{second}: has the mask of {first.name}, too; take one of the photos away or rename it."
                    )
            for path in paths:
                own_masks = {level: by_stem.get(path.stem) for level, by_stem in masks.items()}
                photos.append(Photo(path, own_masks, labels.get(path, {})))
        return photos

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

    def _photo_folders(self) -> list[Path]:
        return [folder / "images" for folder in self.folders]

    def _mask_folder(self, photo_folder: Path, spec: AnnotationSpec) -> Path:
        return photo_folder.parent / (spec.folder if isinstance(spec, MaskSpec) else "annotations")


def _masks_by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.iterdir() if _is_mask(path)} if folder.is_dir() else {}


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() == ".png" and not path.name.startswith(".")


SOURCE = MaskFolder
