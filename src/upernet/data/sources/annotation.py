"""Annotations of one level by a source: masks or image labels, and the labels of other levels that they imply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from upernet.data.candidates import CandidateSets
from upernet.data.images import read_color_mask, read_mask
from upernet.data.sources.colors import UNLISTED, read_colors
from upernet.data.sources.mapping import (
    OUTSIDE,
    check_owners,
    implied_label,
    implied_labels,
    look_up,
    name_to_label,
    value_table,
)
from upernet.errors import UpernetError
from upernet.recipe import AnnotationSpec, MaskValueSpec
from upernet.taxonomy import IGNORE, Level, Taxonomy
from upernet.taxonomy.levels import LEVEL_KINDS


@dataclass(frozen=True)
class Photo:
    """A listed photo, with its masks and image labels."""

    path: Path
    masks: Mapping[str, Path | None] = field(default_factory=dict[str, "Path | None"])
    """Level -> its mask; None: there is no such file."""
    labels: Mapping[str, int] = field(default_factory=dict[str, int])
    """Level -> label of the whole photo."""


class LevelAnnotation(ABC):
    """The annotation of one level by one source, checked against the taxonomy.

    Attributes:
        where: Key of the recipe that describes it, for errors.
        level: The level.
        spec: Its settings.
        candidates: Level -> the candidate sets of its pixels, for `level` and those that it implies.
        image_labels: Level -> label that every photo has.
        implied: Level -> int16 table from labels of `level` to labels or candidate sets of that level.
    """

    def __init__(self, where: str, level: Level, spec: AnnotationSpec, taxonomy: Taxonomy) -> None:
        self.where = where
        self.level = level
        self.spec = spec
        if level.name in spec.implies:
            raise UpernetError(f"{where}.implies: {level.name} is the source's own level; remove it.")
        self.candidates = {name: CandidateSets() for name in (level.name, *spec.implies)}
        self.image_labels: dict[str, int] = {}
        self.implied: dict[str, np.ndarray] = {}
        for name, implied in spec.implies.items():
            place, other = f"{where}.implies.{name}", taxonomy.level(name)
            if isinstance(implied, str):
                self.image_labels[name] = implied_label(place, other, implied)
            else:
                self.implied[name] = implied_labels(place, level, other, implied, self.candidates[name])

    @property
    @abstractmethod
    def maps(self) -> tuple[str, ...]:
        """Levels that get a label per pixel."""

    @abstractmethod
    def annotate(self, photo: Photo, size: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Return the label maps (int16 H x W) and the image labels of a photo of `size` (width, height), by level.

        Raises:
            UpernetError: The annotation is missing, cannot be read, or does not fit the photo or the class mapping.
        """


class LevelMasks(LevelAnnotation):
    """Masks of one dense level.

    Args:
        where: Key of the recipe that describes them, for errors.
        level: The level.
        spec: Its settings.
        taxonomy: Its taxonomy.
        names: Names of the values, from labels.txt; not used for masks in colors.
        optional: Whether photos without a mask are unknown, rather than an error.

    Attributes:
        colors: The colors of the masks; None: the values of a mask are class numbers.
        names: Names of the values.
        own_candidates: The candidate sets of the level itself.
        table: int16 table from values to labels of the level; `OUTSIDE` where a value is not mapped.
        tables: Level -> such a table, for the level and those that its pixels imply.
        merged: The label that a prediction of each label counts as in scoring: int64, one per class of the level. A
            class that the source knows only as one of several counts as the first of them.
    """

    def __init__(
        self,
        where: str,
        level: Level,
        spec: AnnotationSpec,
        taxonomy: Taxonomy,
        names: Mapping[int, str],
        optional: bool = False,
    ) -> None:
        super().__init__(where, level, spec, taxonomy)
        if not LEVEL_KINDS[level.name].dense:
            raise UpernetError(
                f"{where}: {level.name} is one label per photo, not a mask; use kind: label_folder or label_table, or "
                "give the level a table under annotations."
            )
        for name in self.implied:
            if not LEVEL_KINDS[name].dense:
                raise UpernetError(
                    f"{where}.implies.{name}: {name} is one label per photo, which no pixel can imply; "
                    "give one class name."
                )
        self.optional = optional
        self.colors = read_colors(where, spec, level) if isinstance(spec, MaskValueSpec) else None
        self.names = self.colors.names if self.colors else names
        none_of_these = spec.elsewhere == "none_of_these"
        self.own_candidates = self.candidates[level.name]
        self.table = value_table(
            where,
            spec.classes,
            level,
            self.names,
            self._ignored_values(),
            self.own_candidates,
            none_of_these=none_of_these,
        )
        through = {name: self._through(other) for name, other in self.implied.items()}
        self.tables = {level.name: self.table, **through}
        self.merged = np.arange(level.num_classes)
        owner = LEVEL_KINDS[level.name].owned_by
        if owner in self.implied:
            check_owners(where, taxonomy, self.mapped_labels, self.implied[owner])

    @property
    def maps(self) -> tuple[str, ...]:
        """The annotated level, and the levels that its pixels imply."""
        return tuple(self.tables)

    def annotate(self, photo: Photo, size: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Read the mask of `photo`; see `LevelAnnotation.annotate`."""
        path = photo.masks[self.level.name]
        if path is None:
            if not self.optional:
                raise UpernetError(f"{photo.path}: has no mask of level {self.level.name}; add it or remove the photo.")
            unknown = {name: np.full(size[::-1], IGNORE, np.int16) for name in self.tables}
            return unknown, dict(self.image_labels)
        mask = self.read(photo, path)
        unmapped = self.unmapped_values(mask)
        if unmapped:
            row, column = np.argwhere(mask == unmapped[0])[0].tolist()
            raise UpernetError(f"{path}: row {row}, column {column}: {self.explain_unmapped(unmapped)}")
        if problem := size_problem(path, photo, (mask.shape[1], mask.shape[0]), size):
            raise UpernetError(problem)
        return {name: look_up(table, mask) for name, table in self.tables.items()}, dict(self.image_labels)

    def read(self, photo: Photo, path: Path) -> np.ndarray:
        """Return the values of the mask of `photo` in the file `path`, integers H x W.

        Raises:
            UpernetError: The file cannot be read; the message names it.
        """
        return read_mask(path) if self.colors is None else self.colors.values_of(read_color_mask(path))

    def unmapped_values(self, mask: np.ndarray) -> list[int]:
        """Return the sorted values of a mask, H x W, that the source does not map; colors that are not listed first."""
        outside = look_up(self.table, mask) == OUTSIDE
        values: list[int] = np.unique(mask[outside]).tolist() if outside.any() else []
        return [value for value in values if value >= UNLISTED] or values

    def explain_unmapped(self, values: Sequence[int], shown: int = 8) -> str:
        """Say that values of a mask are not mapped, and how to map them."""
        called = [self._called(value) for value in values]
        more = f", ... ({len(values)} values in all)" if len(values) > shown else ""
        plural, noun = len(values) > 1, "value" if self.colors is None else "color"
        subject = f"{noun}{'s' if plural else ''} {', '.join(called[:shown])}{more} {'are' if plural else 'is'}"
        them, key = ("them" if plural else "it"), repr(self.names.get(values[0], str(values[0])))
        if self.colors is not None and values[0] not in self.names:
            return (
                f"{subject} not listed in {self.where}.colors; list {them} there "
                f"('{called[0]}': a class, or null for unknown), or export the mask again as PNG if it is blurred."
            )
        ignored = f" or list {them} in {self.where}.ignore" if isinstance(self.spec, MaskValueSpec) else ""
        return (
            f"{subject} not mapped to a class of level {self.level.name}; map {them} under {self.where}.classes "
            f"({key}: a class, or null for unknown){'' if self.colors else ignored}."
        )

    def _ignored_values(self) -> Sequence[int]:
        if self.colors is not None:
            return self.colors.unknown
        return self.spec.ignore if isinstance(self.spec, MaskValueSpec) else ()

    def _called(self, value: int) -> str:
        called = str(value) if self.colors is None else self.colors.name_of(value)
        return f"{called} ({self.names[value]})" if value in self.names else called

    @property
    def _codes(self) -> list[int]:
        """The values of the table that stand for one of several classes."""
        return [code for code in self._codes_in(self.table) if code != self.own_candidates.complement]

    def use_for_scoring(self) -> None:
        """Label pixels that are one of several classes by the first of them, and those that are none as unknown.

        At implied levels, pixels that are one of several classes are unknown, too.
        """
        self.merged = self._merged()
        self.table = self._with_first_labels(self.table)
        known = {name: np.maximum(self.tables[name], IGNORE) for name in self.implied}
        self.tables = {self.level.name: self.table, **known}

    def _with_first_labels(self, table: np.ndarray) -> np.ndarray:
        firsts = np.array(table, dtype=np.int16)
        for code in self._codes_in(table):
            firsts[table == code] = self.own_candidates.first(code)
        return firsts

    @staticmethod
    def _codes_in(table: np.ndarray) -> list[int]:
        """Return the values of a table that stand for candidate sets."""
        codes: list[int] = np.unique(table[(table < IGNORE) & (table != OUTSIDE)]).tolist()
        return codes

    def _merged(self) -> np.ndarray:
        merged = np.arange(self.level.num_classes)
        known = set(np.unique(self._with_first_labels(self.table)).tolist())
        for code in self._codes:
            for label in self.own_candidates.labels(code) - known:
                merged[label] = self.own_candidates.first(code)
        return merged

    @property
    def mapped_labels(self) -> np.ndarray:
        """The labels that values are mapped to, alone or among others."""
        several = [self.own_candidates.labels(code) for code in self._codes]
        return np.unique([*self.table[self.table >= 0], *frozenset[int]().union(*several)]).astype(np.int64)

    def _through(self, other: np.ndarray) -> np.ndarray:
        """Chain the table from values to labels with a table from labels to those of another level.

        One of several labels implies a label that all of them imply; "none of these" implies nothing.
        """
        through = np.where(self.table >= 0, other[np.maximum(self.table, 0)], IGNORE).astype(np.int16)
        for code in self._codes:
            implied = {int(other[label]) for label in self.own_candidates.labels(code)}
            if len(implied) == 1:
                through[self.table == code] = implied.pop()
        return through


class LevelLabels(LevelAnnotation):
    """One label per photo, from the name of a class.

    Args:
        where: Key of the recipe that describes them, for errors.
        level: The level.
        spec: Its settings.
        taxonomy: Its taxonomy.
        known: All class names of the source, if it lists them.
    """

    def __init__(
        self, where: str, level: Level, spec: AnnotationSpec, taxonomy: Taxonomy, known: Sequence[str] | None = None
    ) -> None:
        super().__init__(where, level, spec, taxonomy)
        if LEVEL_KINDS[level.name].owned_by is not None:
            raise UpernetError(f"{where}: {level.name}s need masks; use kind: mask_folder.")
        self.labels = name_to_label(where, spec.classes, level, known, self.candidates[level.name])
        several = [name for name, candidates in self.candidates.items() if candidates.sets]
        if several or spec.elsewhere != "unknown":
            key = "elsewhere" if not several else "classes" if level.name in several else f"implies.{several[0]}"
            raise UpernetError(
                f"{where}.{key}: a photo's label is one class; only the pixels of masks can be one of several."
            )
        self._unmapped: dict[str, str] = {}

    @property
    def maps(self) -> tuple[str, ...]:
        """No level: a photo has one label."""
        return ()

    def label_of(self, name: str, place: str, noun: str = "class") -> int:
        """Return the label of a class of the source; `IGNORE` for unknown, and for a class that is not mapped.

        Args:
            name: Name of the class.
            place: File or folder where the name was found, for `problems`.
            noun: What has the name.
        """
        label = self.labels.get(name.casefold())
        if label is None:
            self._unmapped.setdefault(name, f"{place}: {noun} {name!r}")
        return IGNORE if label is None else label

    def problems(self) -> list[str]:
        """Return one sentence for each name that is not mapped."""
        return [
            f"{found} is not mapped to a class of level {self.level.name}; map it by the key {name!r} of "
            f"{self.where}.classes (null: leave it out), correct it, or remove it."
            for name, found in self._unmapped.items()
        ]

    def annotate(self, photo: Photo, size: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Return the label of `photo` and what it implies; see `LevelAnnotation.annotate`."""
        label = photo.labels.get(self.level.name, IGNORE)
        implied = {name: IGNORE if label == IGNORE else int(table[label]) for name, table in self.implied.items()}
        return {}, {self.level.name: label, **implied, **self.image_labels}


def size_problem(mask: Path, photo: Photo, mask_size: tuple[int, int], photo_size: tuple[int, int]) -> str | None:
    """Say what is wrong, and how to fix it, if a mask and its (upright) photo differ in width and height."""
    if mask_size == photo_size:
        return None
    return (
        f"{mask}: is {mask_size[0]} x {mask_size[1]} pixels, but its photo {photo.path.name} is "
        f"{photo_size[0]} x {photo_size[1]} (upright); resize the mask with nearest neighbor, or export it again."
    )
