"""One folder of photos per class, as in ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from upernet.data.images import is_photo
from upernet.data.sources.annotations import ImageLabels
from upernet.data.sources.mapping import read_label_names
from upernet.data.sources.source import Photo, Source
from upernet.recipe import AnnotationSpec, TableSpec
from upernet.taxonomy import IGNORE


class LabelFolder(Source):
    """Samples whose label is the folder they are in. Folders that are mapped to null are left out."""

    layout = "it needs one folder of photos per class"

    def _read_annotations(self, level: str, annotation: AnnotationSpec) -> None:
        if isinstance(annotation, TableSpec):
            return super()._read_annotations(level, annotation)
        self.folder_level = level
        names = sorted({path.name for folder in self.folders for path in _class_folders(folder)})
        label_names = read_label_names([[folder, folder.parent] for folder in self.folders])
        known = [*label_names.values(), *names] if label_names else None
        self.labels[level] = ImageLabels(self.taxonomy, level, annotation, self.key_of(level), known)

    def problems(self) -> list[str]:
        """Return what is wrong with the files, as far as their names show, each with the fix."""
        key, labels = self.key_of(self.folder_level), self.labels[self.folder_level]
        return [
            f"{folder}: folder {folder.name!r} is not mapped to a class of level {labels.level.name}; map it by the "
            f"key {folder.name!r} of {key}.classes (null: leave it out) or move it away."
            for folder in self._all_class_folders()
            if labels.find(folder.name) is None and _has_photos(folder)
        ] or super().problems()

    def empty_folders(self) -> list[Path]:
        """Return the class folders that hold no photos."""
        return [folder for folder in self._all_class_folders() if not _has_photos(folder)]

    def _list(self) -> Sequence[Photo]:
        labels = self.labels[self.folder_level]
        photos: list[Photo] = []
        for folder in self._all_class_folders():
            label = labels.find(folder.name)
            if label is not None and label != IGNORE:
                paths = sorted(path for path in folder.iterdir() if is_photo(path))
                photos += [Photo(path, labels={self.folder_level: label}) for path in paths]
        return photos

    def _all_class_folders(self) -> list[Path]:
        return [path for folder in self.folders for path in _class_folders(folder)]


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_photos(folder: Path) -> bool:
    return any(is_photo(path) for path in folder.iterdir())


SOURCE = LabelFolder
