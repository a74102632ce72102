"""One folder of photos per class, as in ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from upernet.data.images import is_photo
from upernet.data.sources.annotation import LevelAnnotation, LevelLabels, Photo
from upernet.data.sources.mapping import read_label_names
from upernet.data.sources.source import FolderSource
from upernet.recipe import AnnotationSpec
from upernet.taxonomy import IGNORE, Level


class LabelFolder(FolderSource):
    """Samples with one label per level for the whole photo. Folders that are unknown at all levels are left out."""

    layout = "it needs one folder of photos per class"

    def problems(self) -> list[str]:
        """Return what is wrong with the files and the names of classes, each with the fix; see `Source.problems`."""
        unmapped = [problem for annotation in self._labels.values() for problem in annotation.problems()]
        return unmapped or super().problems()

    def empty_folders(self) -> list[Path]:
        """Return the class folders without photos."""
        return [
            path
            for folder in self.folders
            for path in _class_folders(folder)
            if not any(is_photo(file) for file in path.iterdir())
        ]

    def _annotation(self, where: str, level: Level, spec: AnnotationSpec) -> LevelAnnotation:
        names = sorted({path.name for folder in self.folders for path in _class_folders(folder)})
        listed = read_label_names(self.folders)
        known = [*listed.values(), *names] if listed else None
        return LevelLabels(where, level, spec, self.taxonomy, known)

    @property
    def _labels(self) -> dict[str, LevelLabels]:
        return {name: found for name, found in self.annotations.items() if isinstance(found, LevelLabels)}

    def _list(self) -> Sequence[Photo]:
        photos: list[Photo] = []
        for folder in self.folders:
            for class_folder in _class_folders(folder):
                paths = sorted(path for path in class_folder.iterdir() if is_photo(path))
                if not paths:
                    continue
                labels = {
                    level: found.label_of(class_folder.name, str(class_folder), "folder")
                    for level, found in self._labels.items()
                }
                if any(label != IGNORE for label in labels.values()):
                    photos += [Photo(path, labels=labels) for path in paths]
        return photos


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


SOURCE = LabelFolder
