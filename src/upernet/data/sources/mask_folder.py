"""Photos in `images/`, and label maps of the same base name and size in a folder per level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from upernet.data.images import is_photo
from upernet.data.sources.annotations import Masks
from upernet.data.sources.mapping import read_label_names
from upernet.data.sources.source import Photo, Source
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, MaskSpec


class MaskFolder(Source):
    """Samples with a label map per level, and maps of the levels that their classes imply."""

    layout = "photos belong in its folder images/, masks in annotations/"

    def _read_annotations(self, level: str, annotation: AnnotationSpec) -> None:
        if not isinstance(annotation, MaskSpec):
            return super()._read_annotations(level, annotation)
        names, annotated = self._label_names(annotation.masks), list(self.spec.levels)
        self.masks[level] = Masks(self.taxonomy, level, annotation, self.key_of(level), names, annotated)

    def problems(self) -> list[str]:
        """Return what is wrong with the files, as far as their names show, each with the fix."""
        problems = super().problems()
        for level, masks in self.masks.items():
            missing = [photo for photo in self.photos if level not in photo.masks] if masks.spec.required else []
            if missing:
                more = f" ({len(missing)} photos of source {self.name} have none)" if len(missing) > 1 else ""
                problems.append(self._missing_mask(missing[0], masks.spec.masks) + more)
        return problems

    def _list(self) -> Sequence[Photo]:
        photos: list[Photo] = []
        for folder in self.folders:
            photo_folder = self._photo_folder(folder)
            found = {
                level: _masks_in(self._mask_folder(folder, masks.spec.masks)) for level, masks in self.masks.items()
            }
            files = filter(is_photo, photo_folder.iterdir()) if photo_folder.is_dir() else ()
            paths = sorted(files, key=lambda path: (path.stem, path.name))
            for first, second in pairwise(paths):
                if first.stem == second.stem:
                    raise UpernetError(
                        f"{second}: has the mask of {first.name}, too; take one of the photos away or rename it."
                    )
            for path in paths:
                masks = {level: files[path.stem] for level, files in found.items() if path.stem in files}
                photos.append(Photo(path, masks=masks))
        return photos

    def _label_names(self, masks: str) -> dict[int, str]:
        """Return the names of the values in the masks, from a labels.txt; empty without one."""
        return read_label_names([[self._mask_folder(folder, masks), folder, folder.parent] for folder in self.folders])

    def _missing_mask(self, photo: Photo, masks: str) -> str:
        folder = next(folder for folder in self.folders if self._photo_folder(folder) == photo.path.parent)
        expected = self._mask_folder(folder, masks) / f"{photo.path.stem}.png"
        return f"{photo.path}: has no mask {expected}; add it or take the photo away."

    def _photo_folder(self, folder: Path) -> Path:
        return folder / "images"

    def _mask_folder(self, folder: Path, masks: str) -> Path:
        return folder / masks


def _masks_in(folder: Path) -> dict[str, Path]:
    files = folder.iterdir() if folder.is_dir() else ()
    return {path.stem: path for path in files if path.suffix.lower() == ".png" and not path.name.startswith(".")}


SOURCE = MaskFolder
