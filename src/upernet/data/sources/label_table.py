"""Photos anywhere in a folder, and a table with a row per photo and a column per level."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from upernet.data.sources.annotation import LevelAnnotation, LevelLabels, LevelMasks, Photo
from upernet.data.sources.mapping import read_label_names
from upernet.data.sources.source import FolderSource, SourceMissing
from upernet.data.sources.table import Row, read_table
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, LabelTableSpec, MaskColumnSpec, TableColumnSpec
from upernet.taxonomy import IGNORE, Level


class LabelTable(FolderSource):
    """Samples with image labels and masks from a table. Photos without any of the levels are left out."""

    layout = "its table needs a row with a known class or a mask per photo"

    def problems(self) -> list[str]:
        """Return what is wrong with the files and the names of classes, each with the fix; see `Source.problems`."""
        annotations = self.annotations.values()
        unmapped = [problem for found in annotations if isinstance(found, LevelLabels) for problem in found.problems()]
        return unmapped or super().problems()

    def _annotation(self, where: str, level: Level, spec: AnnotationSpec) -> LevelAnnotation:
        if not isinstance(spec, MaskColumnSpec):
            return LevelLabels(where, level, spec, self.taxonomy)
        masks = (row.mask(folder, spec.masks) for folder, rows in self._rows for row in rows)
        folders = sorted({mask.parent for mask in masks if mask})
        # A split without a mask of the level has no values to be named.
        names = {} if spec.colors else read_label_names(folders) if folders else dict(enumerate(level.names))
        if ignored := sorted(names.keys() & set(spec.ignore)):
            raise UpernetError(
                f"{where}.ignore: {ignored[0]} is the class {names[ignored[0]]!r} of labels.txt; write ignore: []."
            )
        return LevelMasks(where, level, spec, self.taxonomy, names, optional=True)

    @cached_property
    def _rows(self) -> list[tuple[Path, list[Row]]]:
        """The folder of each table, and its rows in order of the photos."""
        assert isinstance(self.spec, LabelTableSpec)
        columns = list(dict.fromkeys(_column(spec) for spec in self.spec.annotated.values()))
        tables = [
            folder / self.spec.table.replace("{split}", name)
            for name, folder in zip(self.split_names, self.folders, strict=True)
        ]
        if "{split}" in self.spec.table and (missing := [table for table in tables if not table.is_file()]):
            raise SourceMissing(f"{missing[0]}: no such table, so source {self.name} has no {self.split} photos.")
        found = [(table.parent, sorted(read_table(table, columns), key=lambda row: row.photo)) for table in tables]
        listed = [row for _, rows in found for row in rows]
        if listed and not any(any(row.classes.values()) for row in listed):
            places = " and ".join(map(str, tables))
            raise SourceMissing(
                f"{places}: no photo has anything in {', '.join(columns)}, so source {self.name} has no "
                f"{self.split} photos."
            )
        return found

    def _list(self) -> Sequence[Photo]:
        photos: list[Photo] = []
        for folder, rows in self._rows:
            for row in rows:
                masks: dict[str, Path | None] = {}
                labels: dict[str, int] = {}
                for level, found in self.annotations.items():
                    if isinstance(found, LevelLabels):
                        labels[level] = row.label(found, _column(found.spec))
                    else:
                        masks[level] = row.mask(folder, _column(found.spec))
                if any(masks.values()) or any(label != IGNORE for label in labels.values()):
                    photos.append(Photo(row.photo, masks, labels))
        return photos


def _column(spec: AnnotationSpec) -> str:
    assert isinstance(spec, MaskColumnSpec | TableColumnSpec)
    return spec.masks if isinstance(spec, MaskColumnSpec) else spec.column


SOURCE = LabelTable
