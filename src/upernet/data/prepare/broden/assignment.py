"""Which class of the target taxonomy each raw label of a data set belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np

from upernet.data.prepare.broden.ade20k import NO_SCENE, scene_keys
from upernet.data.prepare.broden.sources import Reader
from upernet.errors import UpernetError, shorten
from upernet.taxonomy import IGNORE, Taxonomy, load_taxonomy
from upernet.yaml_document import read_yaml

PUBLISHED = "published"
NO_CLASS = "-"
UNKNOWN = -2
"""Entry of a table for a raw label that the assignment does not know."""
LAST_PUBLISHED = 3148
"""Last number of an object or part in ADE20K of 2016, which the published assignment covers."""

Table = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Data set -> level -> key of a raw label -> label of the taxonomy."""


@dataclass(frozen=True)
class Assignment:
    """The assignment of raw labels to a taxonomy."""

    taxonomy: Taxonomy
    table: Table
    name: str
    """`published`, or where else it is from."""

    @cached_property
    def digest(self) -> str:
        """A text that differs where the labels of photos may differ."""
        content = json.dumps([self.table, self.taxonomy.to_dict()], sort_keys=True).encode()
        return blake2b(content, digest_size=8).hexdigest()

    def lookup(self, reader: Reader, level: str) -> np.ndarray:
        """Return the int32 table from raw labels of a data set to labels of a level: 0 for none, `UNKNOWN`."""
        assigned = self.table.get(reader.dataset, {}).get(level, {})
        keys = reader.keys(level)
        if keys is not None:
            known = {number: assigned.get(key, UNKNOWN) for number, key in keys.items()}
        else:
            known = dict.fromkeys(range(1, LAST_PUBLISHED + 1), 0) if assigned else {}
            known |= {int(key): label for key, label in assigned.items() if key.isdecimal()}
        table = np.full(max(known, default=0) + 1, UNKNOWN, np.int32)
        table[list(known)] = list(known.values())
        table[0] = max(table[0], 0)  # not annotated
        return table

    def label(self, dataset: str, level: str, name: str) -> int:
        """Return the label of a photo whose raw label is `name`; `IGNORE` for none, `UNKNOWN`."""
        if level not in self.taxonomy.levels:
            return IGNORE
        keys = scene_keys(name) if level == "scene" else [name]
        if not keys or any(key in NO_SCENE for key in keys):
            return IGNORE
        assigned = self.table.get(dataset, {}).get(level)
        if assigned is None:  # its own classes
            assigned = {own: label for label, own in enumerate(self.taxonomy.level(level).names)}
        return next((assigned[key] for key in keys if key in assigned), UNKNOWN)


@cache
def published() -> Assignment:
    """Return the assignment of Unified Perceptual Parsing to the taxonomy `broden`."""
    return read_assignment(Path(__file__).with_name("published.yaml"), load_taxonomy("broden"), PUBLISHED)


def read_assignment(path: Path, taxonomy: Taxonomy, name: str) -> Assignment:
    """Read an assignment: `data set: level: class: [raw labels]`, as in published.yaml.

    Raises:
        UpernetError: The file does not have that form, a class is not in the taxonomy, or a label has two classes.
    """
    table: dict[str, dict[str, dict[str, int]]] = {}
    for dataset, levels in _mapping(path, "the file", read_yaml(path)[1]).items():
        for level, classes in _mapping(path, dataset, levels).items():
            labels = table.setdefault(dataset, {}).setdefault(level, {})
            for own, raw in _mapping(path, f"{dataset}.{level}", classes).items():
                where = f"{path}: {dataset}.{level}.{own}"
                try:
                    label = 0 if own == NO_CLASS else taxonomy.level(level).index(own)
                except UpernetError as error:
                    raise UpernetError(f"{where}: {error}") from None
                if not isinstance(raw, list):
                    raise UpernetError(f"{where}: {shorten(cast(object, raw))} is not a list; list the raw labels.")
                for key in map(str, cast("list[Any]", raw)):
                    if labels.setdefault(key, label) != label:
                        raise UpernetError(f"{where}: {shorten(key)} has another class, too; list it once.")
    return Assignment(taxonomy, table, name)


def _mapping(path: Path, place: str, values: object) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UpernetError(f"{path}: {place} is not a mapping; write it as published.yaml of upernet.")
    return {str(key): value for key, value in cast("dict[Any, Any]", values).items()}
