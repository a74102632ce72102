"""Photos, and outlines of things in them from an annotation tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from upernet.data.images import is_photo, read_header
from upernet.data.shapes import Drawing, read_shapes
from upernet.data.sources.annotation import LevelAnnotation, LevelMasks, Photo
from upernet.data.sources.source import FolderSource
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, PolygonsSpec
from upernet.taxonomy import Level, Taxonomy

OUTSIDE_SHAPES = "background"
"""Class of the pixels outside of all shapes: value 0 of a mask."""


class LevelShapes(LevelMasks):
    """Masks of one dense level that are drawn from shapes.

    Args:
        where: Key of the recipe that describes them, for errors.
        level: The level.
        spec: Its settings.
        taxonomy: Its taxonomy.
        drawings: Photo -> its shapes.
        values: Class of the source -> value in the masks.
    """

    def __init__(
        self,
        where: str,
        level: Level,
        spec: AnnotationSpec,
        taxonomy: Taxonomy,
        drawings: Mapping[Path, Drawing],
        values: Mapping[str, int],
    ) -> None:
        super().__init__(where, level, spec, taxonomy, {value: name for name, value in values.items()})
        self.drawings = drawings
        self.values = values

    def read(self, photo: Photo, path: Path) -> np.ndarray:
        """Draw the mask of `photo`; see `LevelMasks.read`."""
        drawing = self.drawings[photo.path]
        try:
            return drawing.draw(self.values, drawing.size or read_header(photo.path).size)
        except UpernetError as error:
            raise UpernetError(f"{path}: {drawing.photo}: {error}") from None


class Polygons(FolderSource):
    """Samples of the photos that files of annotations list, with a label map of one level."""

    layout = "the files of annotations need to list photos that are there"

    def _annotation(self, where: str, level: Level, spec: AnnotationSpec) -> LevelAnnotation:
        assert isinstance(spec, PolygonsSpec)
        self.drawings: dict[Path, tuple[Drawing, Path]] = {}
        self._without_photo: list[tuple[Path, PurePosixPath]] = []
        labels: dict[str, None] = {}
        for name, folder in zip(self.split_names, self.folders, strict=True):
            photos = PhotosByName(self._files_below(folder / spec.photos.replace("{split}", name)))
            for file in self._shapes_files(folder / spec.shapes.replace("{split}", name), spec.format):
                content = read_shapes(file, spec.format)
                labels |= dict.fromkeys(content.labels)
                for drawing in content.drawings:
                    photo = photos.find(drawing.photo, file.parent)
                    if photo is None:
                        self._without_photo.append((file, drawing.photo))
                    else:
                        self.drawings[photo] = (drawing, file)
        labels.pop(OUTSIDE_SHAPES, None)
        values = {OUTSIDE_SHAPES: 0, **{label: value for value, label in enumerate(labels, 1)}}
        by_photo = {photo: drawing for photo, (drawing, _) in self.drawings.items()}
        return LevelShapes(where, level, spec, self.taxonomy, by_photo, values)

    def _shapes_files(self, place: Path, format: str) -> list[Path]:
        if format != "labelme":
            return [place]
        return [path for path in self._files_below(place) if path.suffix.lower() == ".json"]

    def problems(self) -> list[str]:
        """Return what is wrong with the files, each with the fix; see `Source.problems`."""
        found: list[str] = []
        if self._without_photo:
            file, photo = self._without_photo[0]
            more = f" (and {len(self._without_photo) - 1} more)" if len(self._without_photo) > 1 else ""
            found.append(f"{file}: lists photo {str(photo)!r}{more}, which is not there; add it or correct the file.")
        return found or super().problems()

    def _list(self) -> Sequence[Photo]:
        (level,) = self.annotations
        return [Photo(photo, {level: file}) for photo, (_, file) in sorted(self.drawings.items())]


class PhotosByName:
    """The photos of a folder, by the paths that a file of annotations may give them."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.by_name: dict[str, list[Path]] = {}
        for path in filter(is_photo, files):
            self.by_name.setdefault(path.name, []).append(path)

    def find(self, name: PurePosixPath, beside: Path) -> Path | None:
        """Return the photo whose path ends most like `name`; the one in the folder `beside` if several do."""
        wanted = [part for part in name.parts if part not in ("..", ".", "/")]

        def likeness(path: Path) -> tuple[int, bool]:
            same = 0
            for own, other in zip(reversed(path.parts), reversed(wanted), strict=False):
                if own != other:
                    break
                same += 1
            return same, path.parent == beside

        return max(self.by_name.get(name.name, []), key=likeness, default=None)


SOURCE = Polygons
