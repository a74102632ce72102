"""The split of the released lists of records (`meta_file` of CSAILVision/unifiedparsing)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from upernet.data.prepare.broden.sources import Flaw, Item, Split, find_one, read_text
from upernet.errors import UpernetError

LISTS: Mapping[str, Split] = {
    "broden_ade20k_pascal_train.json": "train",
    "broden_os_train.json": "train",
    "dtd_training_list.json": "train",
    "broden_ade20k_pascal_val.json": "val",
    "broden_os_val.json": "val",
    "dtd_validation_list.json": "val",
}
_DATASETS = {"os": "opensurfaces"}


def read_lists(folder: Path) -> dict[tuple[str, int], Split]:
    """Return (data set, number of a record) -> split.

    Raises:
        UpernetError: There is no list in the folder, or one is damaged.
    """
    splits: dict[tuple[str, int], Split] = {}
    for name, split in LISTS.items():
        path = find_one(folder, (name,), depth=2)
        for number, line in enumerate(read_text(path).splitlines() if path else [], 1):
            try:
                record = cast("dict[str, Any]", json.loads(line))
                dataset, row = str(record["dataset"]), int(record["file_index"])
            except (ValueError, KeyError, TypeError):
                raise UpernetError(
                    f"{path}:{number}: is not a record; take the list from its repository again."
                ) from None
            splits[_DATASETS.get(dataset, dataset), row] = split
    if not splits:
        raise UpernetError(f"{folder}: none of {', '.join(LISTS)} is in there; give the folder meta_file.")
    return splits


def split_by_lists(items: Sequence[Item], splits: Mapping[tuple[str, int], Split]) -> tuple[list[Item], list[Flaw]]:
    """Return the listed photos with the split of the lists, and those that no list has."""
    if items and all(item.row < 0 for item in items):
        raise UpernetError(
            f"{items[0].dataset}: the lists number its photos by an index that is not there (index_ade20k.mat, "
            "Annotations_Part, labels_joint_anno.txt); unpack the whole archive, or leave --lists out."
        )
    listed = [
        replace(item, split=split) for item in items if (split := splits.get((item.dataset, item.row))) is not None
    ]
    names = {item.name for item in listed}
    text = "{}: is in no list of records."
    return listed, [
        Flaw(item.dataset, item.name, "unlisted", text.format(item.photo)) for item in items if item.name not in names
    ]
