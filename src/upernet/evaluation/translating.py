"""Counts of two evaluations in one taxonomy, so that models with different label sets can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from upernet.errors import UpernetError
from upernet.evaluation.folder import counts_of
from upernet.evaluation.photo_counts import NOT_SCORED, Ints, Kind, LevelCounts, PhotoCounts
from upernet.evaluation.results import EvaluationResult
from upernet.taxonomy import Level, Taxonomy, map_taxonomies
from upernet.taxonomy.mapping import Table

Key = tuple[str, Kind]
"""A level, and how it is counted."""
SCORED = 0
"""Group of the classes that both evaluations score."""


def in_taxonomy(
    first: EvaluationResult, second: EvaluationResult, target: Taxonomy, table: Table | None = None
) -> tuple[EvaluationResult, EvaluationResult, tuple[str, ...]]:
    """Return two evaluations with the counts of the target's classes, and sentences that say what is not compared.

    The classes that both evaluations score there are scored. True pixels (or photos) of other classes are left out, and
    a prediction without a counterpart is wrong. Parts are left out, because their scores are per object.

    Args:
        first: An evaluation with its counts.
        second: Another one of the same photos.
        target: The taxonomy. Where one label set is coarser than the other one, it must be as coarse.
        table: Counterparts of classes of either evaluation that differ from what `map_taxonomies` finds.

    Raises:
        UpernetError: An evaluation lacks its counts, the table does not fit, or no class is scored in both.
    """
    counts = counts_of(first), counts_of(second)
    _check_table(table or {}, counts)
    mapped: list[dict[Key, LevelCounts]] = [
        {
            (level.level, level.kind): _mapped(level, target, table or {})
            for level in each.levels
            if level.kind != "parts"
        }
        for each in counts
    ]
    common = {key: _scored(mapped[0][key]) & _scored(mapped[1][key]) for key in mapped[0] if key in mapped[1]}
    common = {key: classes for key, classes in common.items() if classes}
    if not common:
        raise UpernetError(
            f"no class that both evaluations score has a counterpart in the taxonomy {target.name}; write some into a "
            "table: upernet taxonomy map --out."
        )
    results: list[EvaluationResult] = []
    for result, each, levels in zip((first, second), counts, mapped, strict=True):
        kept = tuple(_only(levels[key], classes) for key, classes in common.items())
        results.append(replace(result, counts=PhotoCounts(each.photos, kept)))
    remarks = [_left_out(key, counts, target, table or {}, classes) for key, classes in common.items()]
    if any(level.kind == "parts" for each in counts for level in each.levels):
        remarks.append("Parts are not compared, because their scores are per object.")
    remarks += [_different_truth(key, results) for key in common]
    return results[0], results[1], tuple(remark for remark in remarks if remark)


def _left_out(
    key: Key, counts: tuple[PhotoCounts, PhotoCounts], target: Taxonomy, table: Table, common: set[int]
) -> str | None:
    """Say which classes of the photos are not compared; None if all are."""
    names: dict[str, None] = {}
    for each in counts:
        level = _level(each, key)
        present = {int(label) for label in level.cells[1]} & {*level.scored_classes}
        labels = _labels(level, target, table)
        names |= dict.fromkeys(level.names[label] for label in sorted(present) if int(labels[label]) not in common)
    if not names:
        return None
    return f"Not compared, because one of the evaluations or {target.name} lacks the {key[0]}: {', '.join(names)}."


def _different_truth(key: Key, results: list[EvaluationResult]) -> str | None:
    """Say which classes have different true pixels (or photos) in both evaluations; None if there are none."""
    found = [_level(counts_of(each), key) for each in results]
    first, second = (np.bincount(level.cells[1], level.cells[3], len(level.names)) for level in found)
    differing = [
        f"{found[0].names[label]} ({first[label]:,.0f} and {second[label]:,.0f})"
        for label in np.flatnonzero(first != second)
    ]
    if not differing:
        return None
    return (
        f"The evaluations count different numbers of true {found[0].unit}, so the scores are not of the same truth: "
        f"{', '.join(differing)}."
    )


def _level(counts: PhotoCounts, key: Key) -> LevelCounts:
    return next(level for level in counts.levels if (level.level, level.kind) == key)


def _check_table(table: Table, counts: tuple[PhotoCounts, PhotoCounts]) -> None:
    known = {(level.level, name) for each in counts for level in each.levels for name in level.names}
    for level, classes in table.items():
        for name in classes:
            if (level, name) not in known:
                raise UpernetError(f"the table names the {level} {name!r}, which neither evaluation has; remove it.")


def _mapped(level: LevelCounts, target: Taxonomy, table: Table) -> LevelCounts:
    """Return the counts of a level with the classes of the target; those of true classes without one are left out."""
    if level.level not in target.levels:
        return replace(level, names=(), groups=(), cells=level.cells[:, :0])
    labels = _labels(level, target, table)
    names = target.level(level.level).names
    photo, true, predicted, count = level.cells
    to: Ints = np.append(np.where(labels < 0, len(names), labels), len(names))
    cells: Ints = np.stack([photo, to[true], to[predicted], count])
    scored = {int(labels[label]) for label in level.scored_classes}
    groups = tuple(SCORED if label in scored else NOT_SCORED for label in range(len(names)))
    return replace(level, names=names, groups=groups, cells=cells[:, cells[1] < len(names)])


def _labels(level: LevelCounts, target: Taxonomy, table: Table) -> Ints:
    """Return the target's label of each class of a level, -1 where there is none."""
    own = Taxonomy("", "", {level.level: Level(level.level, level.names, ((0, 0, 0),) * len(level.names), False)})
    rows = {name: to for name, to in table.get(level.level, {}).items() if name in level.names}
    return map_taxonomies(own, target, {level.level: rows}).labels(level.level).astype(np.int64)


def _scored(level: LevelCounts) -> set[int]:
    return set(level.scored_classes)


def _only(level: LevelCounts, classes: set[int]) -> LevelCounts:
    groups = tuple(SCORED if label in classes else NOT_SCORED for label in range(len(level.names)))
    return replace(level, groups=groups, cells=level.cells[:, np.isin(level.cells[1], list(classes))])
