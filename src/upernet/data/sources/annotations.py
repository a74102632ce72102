"""The annotations of one level in a source: masks or image labels, and the labels of other levels that they imply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upernet.data.sources.mapping import (
    OUTSIDE,
    check_owners,
    implied_label,
    implied_labels,
    name_to_label,
    value_table,
)
from upernet.data.sources.tables import LabelTable, Row
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, MaskSpec
from upernet.taxonomy import IGNORE, LEVEL_KINDS, Taxonomy

Labels = NDArray[np.int16]


class LevelAnnotations:
    """What masks and image labels have in common.

    Args:
        taxonomy: The taxonomy of the recipe.
        level: Name of the annotated level.
        spec: Its settings.
        key: The keys that lead to `spec` in the recipe, for errors.

    Attributes:
        level: The annotated level.
        image_labels: level -> label of every photo.
        implied: level -> label of the other level for each label of this one, int16; `IGNORE` for none.

    Raises:
        UpernetError: The level, or a class that it implies, is not in the taxonomy.
    """

    def __init__(self, taxonomy: Taxonomy, level: str, spec: AnnotationSpec, key: str) -> None:
        self.spec = spec
        self.key = key
        self.level = taxonomy.level(level)
        if level in spec.implies:
            raise UpernetError(f"{key}.implies: {level} is the source's own level; take it out.")
        self.image_labels: dict[str, int] = {}
        self.implied: dict[str, Labels] = {}
        for other, implied in spec.implies.items():
            where = f"{key}.implies.{other}"
            if isinstance(implied, str):
                self.image_labels[other] = implied_label(where, taxonomy.level(other), implied)
            else:
                self.implied[other] = implied_labels(where, self.level, taxonomy.level(other), implied)

    @property
    def levels(self) -> tuple[str, ...]:
        """The annotated level and the levels that it implies."""
        return (self.level.name, *self.spec.implies)


class Masks(LevelAnnotations):
    """Masks of a dense level.

    Args:
        taxonomy: As in `LevelAnnotations`, as are `level` and `key`.
        level: Name of the annotated level.
        spec: Its settings.
        key: The keys that lead to `spec` in the recipe.
        label_names: Value in a mask -> name of the class in the source; may be empty.
        annotated: All levels with annotations of their own in the source.

    Raises:
        UpernetError: As in `LevelAnnotations`, or the level is not dense, or parts have no owners.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        level: str,
        spec: MaskSpec,
        key: str,
        label_names: Mapping[int, str],
        annotated: Sequence[str],
    ) -> None:
        super().__init__(taxonomy, level, spec, key)
        self.spec: MaskSpec = spec
        self.label_names = label_names
        if not LEVEL_KINDS[level].dense:
            raise UpernetError(
                f"{key}.level: {level} is one label per photo; use kind: label_folder, or give a `table`."
            )
        for other in self.implied:
            if not LEVEL_KINDS[other].dense:
                raise UpernetError(
                    f"{key}.implies.{other}: is one label per photo, which no pixel can imply; give one class name."
                )
        self.table = value_table(key, spec, self.level, label_names)
        owner_level = LEVEL_KINDS[level].owned_by
        if owner_level and owner_level in self.implied:
            check_owners(key, taxonomy, level, self.table, self.implied[owner_level])
        elif owner_level and owner_level not in annotated:
            raise UpernetError(
                f"{key}.implies: {level}s need the {owner_level} they belong to, for instance "
                f'implies: {{{owner_level}: {{"*": person}}}}.'
            )

    def maps(self, mask: NDArray[Any]) -> dict[str, Labels]:
        """Return the label maps of a mask: of the level, and of those that its classes imply. int16 H x W."""
        tables = {self.level.name: self.table, **{other: self._through(own) for other, own in self.implied.items()}}
        return {level: _look_up(table, mask) for level, table in tables.items()}

    def unknown_maps(self, size: tuple[int, int]) -> dict[str, Labels]:
        """Return label maps of a photo without a mask: `IGNORE` everywhere."""
        return {level: np.full(size, IGNORE, np.int16) for level in (self.level.name, *self.implied)}

    def unmapped_values(self, mask: NDArray[Any]) -> list[int]:
        """Return the values of a mask that are not mapped, in ascending order."""
        outside = _look_up(self.table, mask) == OUTSIDE
        return [int(value) for value in np.unique(mask[outside])] if outside.any() else []

    def outside(self, values: Sequence[int], shown: int = 8) -> str:
        """Describe mask values that are not mapped, and the fix."""
        called = [
            f"{value} ({self.label_names[value]})" if value in self.label_names else str(value) for value in values
        ]
        more = f", ... ({len(values)} values in all)" if len(values) > shown else ""
        plural = len(values) > 1
        subject = f"value{'s' if plural else ''} {', '.join(called[:shown])}{more} {'are' if plural else 'is'}"
        them, key = ("them" if plural else "it"), repr(self.label_names.get(values[0], str(values[0])))
        return (
            f"{subject} not mapped to a class of level {self.level.name}; map {them} under {self.key}.classes "
            f"({key}: a class, or null for unknown) or list {them} in {self.key}.ignore."
        )

    def _through(self, other: Labels) -> Labels:
        """Return the table from mask values to the level that a table of labels leads to."""
        return np.where(self.table >= 0, other[np.maximum(self.table, 0)], IGNORE).astype(np.int16)


class ImageLabels(LevelAnnotations):
    """Image labels of a level, from folders or a table.

    Args:
        taxonomy: As in `LevelAnnotations`, as are `level` and `key`.
        level: Name of the annotated level.
        spec: Its settings.
        key: The keys that lead to `spec` in the recipe.
        known: The names of the classes in the source, if it has a list of them.

    Raises:
        UpernetError: As in `LevelAnnotations`, or another level owns the level.
    """

    def __init__(
        self, taxonomy: Taxonomy, level: str, spec: AnnotationSpec, key: str, known: Sequence[str] | None
    ) -> None:
        super().__init__(taxonomy, level, spec, key)
        if LEVEL_KINDS[level].owned_by:
            raise UpernetError(f"{key}.level: {level}s need masks; use kind: mask_folder.")
        self._labels = name_to_label(key, spec, self.level, known)

    def find(self, name: str) -> int | None:
        """Return the label of a class of the source, or None if it is not mapped."""
        return self._labels.get(name.casefold())

    def of_row(self, table: LabelTable, row: Row, column: str) -> int:
        """Return the label in a cell of a table; `IGNORE` for an empty cell.

        Raises:
            UpernetError: The class is not mapped.
        """
        name = row.cells[column]
        label = IGNORE if name is None else self.find(name)
        if label is None:
            raise UpernetError(
                f"{table.path}:{row.line}: {name!r} is not mapped to a class of level {self.level.name}; map it under "
                f"{self.key}.classes (null: unknown) or correct the table."
            )
        return label

    def labels(self, label: int) -> dict[str, int]:
        """Return the label of the level, and of those that it implies."""
        implied = {level: IGNORE if label == IGNORE else int(table[label]) for level, table in self.implied.items()}
        return {self.level.name: label, **implied}


def _look_up(table: Labels, mask: NDArray[Any]) -> Labels:
    """Return the int16 labels of mask values; anything beyond the table is `OUTSIDE`."""
    if mask.dtype == np.uint8:
        return table[:256].take(mask, mode="clip")  # five times faster than indexing
    inside = (mask >= 0) & (mask < len(table))
    return np.where(inside, table[np.where(inside, mask, 0)], np.int16(OUTSIDE)).astype(np.int16)
