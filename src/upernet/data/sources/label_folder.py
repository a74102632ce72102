"""One folder of photos per class, as ImageNet is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from upernet.data.images import is_photo
from upernet.data.sample import Sample
from upernet.data.sources.mapping import name_to_label
from upernet.data.sources.source import Photo, Source
from upernet.errors import UpernetError
from upernet.recipe import SourceSpec
from upernet.taxonomy import IGNORE, Taxonomy


class LabelFolder(Source):
    """Samples with one label for the whole photo. Folders that are mapped to null are left out."""

    layout = "it needs one folder of photos per class"

    def __init__(self, name: str, spec: SourceSpec, taxonomy: Taxonomy, data_dir: Path, split: str) -> None:
        if spec.level == "part":
            raise UpernetError(f"sources.{name}.level: parts need masks; use kind: mask_folder.")
        self.unmapped: dict[str, list[Path]] = {}
        super().__init__(name, spec, taxonomy, data_dir, split)

    def __getitem__(self, index: int) -> Sample:
        photo = self.photos[index]
        label = IGNORE if photo.label is None else photo.label
        labels = {self.spec.level: label}
        for level, table in self.implied.items():
            labels[level] = int(table[label])
        return self._sample(photo, {}, labels, self.read_photo(photo))

    def problems(self) -> list[str]:
        return [
            f"{paths[0].parent}: folder {folder!r} is not mapped to a class of level {self.level.name}; map it by the "
            f"key {folder!r} of sources.{self.name}.classes (null: leave it out) or move it away."
            for folder, paths in self.unmapped.items()
        ] or super().problems()

    def empty_folders(self) -> list[Path]:
        return [
            path
            for folder in self.folders
            for path in _class_folders(folder)
            if not any(is_photo(file) for file in path.iterdir())
        ]

    def _list(self) -> Sequence[Photo]:
        names = sorted({path.name for folder in self.folders for path in _class_folders(folder)})
        known = [*self.label_names.values(), *names] if self.label_names else None
        labels = name_to_label(self.name, self.spec, self.level, known)
        photos = []
        for folder in self.folders:
            for class_folder in _class_folders(folder):
                paths = sorted(path for path in class_folder.iterdir() if is_photo(path))
                label = labels.get(class_folder.name.casefold())
                if label is None and paths:
                    self.unmapped.setdefault(class_folder.name, []).extend(paths)
                elif label is not None and label != IGNORE:
                    photos += [Photo(path, label=label) for path in paths]
        return photos


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
