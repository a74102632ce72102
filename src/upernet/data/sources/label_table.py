"""Photos anywhere in a folder, and a table with a row per photo and a column per level."""

from __future__ import annotations

from collections.abc import Sequence

from upernet.data.sources.annotation import LevelAnnotation, LevelLabels, Photo
from upernet.data.sources.source import FolderSource
from upernet.data.sources.table import read_table
from upernet.recipe import AnnotationSpec, LabelTableSpec, TableColumnSpec
from upernet.taxonomy import IGNORE, Level


class LabelTable(FolderSource):
    """Samples with image labels from a table. Photos without a known label of any level are left out."""

    layout = "its table needs a row with a known class per photo"

    def problems(self) -> list[str]:
        """Return what is wrong with the files and the names of classes, each with the fix; see `Source.problems`."""
        unmapped = [problem for annotation in self._labels.values() for problem in annotation.problems()]
        return unmapped or super().problems()

    def _annotation(self, where: str, level: Level, spec: AnnotationSpec) -> LevelAnnotation:
        return LevelLabels(where, level, spec, self.taxonomy)

    @property
    def _labels(self) -> dict[str, LevelLabels]:
        return {name: found for name, found in self.annotations.items() if isinstance(found, LevelLabels)}

    def _list(self) -> Sequence[Photo]:
        assert isinstance(self.spec, LabelTableSpec)
        columns = {
            level: spec.column for level, spec in self.spec.annotated.items() if isinstance(spec, TableColumnSpec)
        }
        photos: list[Photo] = []
        for folder in self.folders:
            rows = read_table(folder / self.spec.table, list(dict.fromkeys(columns.values())))
            for row in sorted(rows, key=lambda row: row.photo):
                labels = {level: row.label(found, columns[level]) for level, found in self._labels.items()}
                if any(label != IGNORE for label in labels.values()):
                    photos.append(Photo(row.photo, labels=labels))
        return photos


SOURCE = LabelTable
