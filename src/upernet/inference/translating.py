"""A parse in another taxonomy, where its classes have a counterpart there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from upernet.errors import UpernetError
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.parse import Parse, Ranking
from upernet.taxonomy import LEVEL_KINDS, TaxonomyMapping


def translate(parse: Parse, mapping: TaxonomyMapping) -> Parse:
    """Return a parse whose labels are those of the target of a mapping.

    Pixels of a class without a counterpart are unsure, and so are those of a part that the object does not have there.
    Probabilities of scenes that become one are added up; scenes without a counterpart are left out. The result has the
    levels of which at least one class has a counterpart.

    Args:
        parse: A parse with the classes of `mapping.source`.
        mapping: What `map_taxonomies` returns.

    Raises:
        UpernetError: No class of the parse has a counterpart, or the parse has other classes than `mapping.source`.
    """
    levels = [level for level in parse.levels if level in mapping.levels]
    if not levels:
        raise UpernetError(
            f"no class of {', '.join(parse.levels)} has a counterpart in the taxonomy {mapping.target.name}; "
            "write one into a table: upernet taxonomy map --out."
        )
    for level, label_map in parse.maps.items():
        if level in mapping.levels and label_map.names != mapping.source.level(level).names:
            raise UpernetError(
                f"the parse has other classes of the level {level} than the taxonomy {mapping.source.name}; "
                "map the taxonomy of its model."
            )
    maps = {level: _label_map(label_map, mapping) for level, label_map in parse.maps.items() if level in levels}
    _hide_foreign_parts(maps, mapping)
    return Parse(
        parse.photo,
        maps,
        {level: _ranking(ranking, level, mapping) for level, ranking in parse.rankings.items() if level in levels},
        thresholds={level: value for level, value in parse.thresholds.items() if level in levels},
        class_thresholds={level: _thresholds(parse, level, mapping) for level in parse.rankings if level in levels},
        part_groups=mapping.target.part_groups,
        familiarity=parse.familiarity,
        model=f"{parse.model} (as {mapping.target.name})",
        path=parse.path,
    )


def _label_map(label_map: LabelMap, mapping: TaxonomyMapping) -> LabelMap:
    target = mapping.target.level(label_map.level)
    table = np.append(mapping.labels(label_map.level), np.int16(UNSURE))  # the last one is that of -1
    return replace(
        label_map,
        labels=table[label_map.labels],
        names=target.names,
        colors=target.colors,
        background=target.background,
        compute_probabilities=_no_probabilities,
    )


def _no_probabilities() -> np.ndarray:
    raise UpernetError("the probabilities are those of the model's own classes; parse the photo in its own taxonomy.")


def _hide_foreign_parts(maps: dict[str, LabelMap], mapping: TaxonomyMapping) -> None:
    """Set parts to unsure where the object has no such part in the target."""
    for level, label_map in maps.items():
        owners = maps.get(LEVEL_KINDS[level].owned_by or "")
        if owners is None:
            continue
        allowed = np.zeros((len(owners.names) + 1, len(label_map.names) + 1), bool)
        allowed[:, 0] = allowed[:, -1] = True  # no part, and unsure
        for group in mapping.target.part_groups:
            allowed[group.owner, list(group.parts)] = True
        labels = label_map.labels
        labels[~allowed[owners.labels, labels]] = UNSURE


def _ranking(ranking: Ranking, level: str, mapping: TaxonomyMapping) -> Ranking:
    to = {match.name: match.to for match in mapping.of(level)}
    summed: dict[str, float] = {}
    for name, probability in ranking:
        if (other := to.get(name)) is not None:
            summed[other] = summed.get(other, 0.0) + probability
    return sorted(summed.items(), key=lambda pair: -pair[1])


def _thresholds(parse: Parse, level: str, mapping: TaxonomyMapping) -> dict[str, float]:
    """Return for each class the largest threshold of those that become it, where that is not the level's own."""
    found: dict[str, float] = {}
    for match in mapping.of(level):
        if match.to is not None:
            found[match.to] = max(found.get(match.to, 0.0), parse.threshold(level, match.name))
    return {name: value for name, value in found.items() if value != parse.thresholds.get(level, 0.0)}
