"""A CSV or JSON Lines file that lists photos and their image labels, one column per level."""

from __future__ import annotations

from collections.abc import Sequence

from upernet.data.sources.annotations import ImageLabels
from upernet.data.sources.source import Photo, Source
from upernet.data.sources.tables import LabelTable
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, ColumnSpec, LabelTableSpec


class LabelTableSource(Source):
    """Samples with the image labels of a table, in the order of the photos' paths."""

    layout = "the table of each split lists them"

    def _read_annotations(self, level: str, annotation: AnnotationSpec) -> None:
        self.labels[level] = ImageLabels(self.taxonomy, level, annotation, self.key_of(level), None)

    def _list(self) -> Sequence[Photo]:
        spec = self.spec
        assert isinstance(spec, LabelTableSpec)
        columns = {
            level: annotation.column for level, annotation in spec.levels.items() if isinstance(annotation, ColumnSpec)
        }
        photos: list[Photo] = []
        for folder, path in zip(self.folders, self.paths_of(spec.table), strict=True):
            table = LabelTable(path, spec.photo_column, list(columns.values()))
            for name, row in table.rows.items():
                labels = {level: self.labels[level].of_row(table, row, column) for level, column in columns.items()}
                photo = folder / name
                if not photo.is_file():
                    raise UpernetError(f"{path}:{row.line}: there is no photo {photo}; add it or remove the row.")
                photos.append(Photo(photo, labels=labels))
        return sorted(photos, key=lambda photo: photo.path)


SOURCE = LabelTableSource
