"""What has changed in the data sets since an earlier run that wrote to the same folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from hashlib import blake2b

from upernet.data.prepare.broden.assignment import Assignment
from upernet.data.prepare.broden.journal import Entry, Journal, Key
from upernet.data.prepare.broden.sources import Flaw, Item
from upernet.errors import UpernetError


def origin_of(item: Item, assignment: Assignment) -> str:
    """Return a digest of what a photo is made from: its split, its labels, the sizes of its files, the assignment."""
    files = {"photo": item.photo, **item.files}
    sizes = {kind: path.stat().st_size for kind, path in files.items() if path.is_file()}
    content = json.dumps([assignment.digest, item.split, dict(item.names), sizes], sort_keys=True).encode()
    return blake2b(content, digest_size=8).hexdigest()


def outdated(journal: Journal, datasets: Set[str], origins: Mapping[Key, str]) -> list[Key]:
    """Return the photos of some data sets that are to be converted again, as damaged ones always are, or are gone."""
    return [
        key
        for key, entry in journal.entries.items()
        if key[0] in datasets
        and (entry["origin"] != origins.get(key) or any(flaw["kind"] == "damaged" for flaw in entry["flaws"]))
    ]


def refuse_fewer_annotations(dataset: str, items: Sequence[Item], journal: Journal) -> None:
    """Raise UpernetError if no photo has a kind of annotation now that an earlier run had, such as parts of Pascal."""
    kinds = {kind for item in items if item.dataset == dataset for kind in item.files}
    lost = {kind for entry in _earlier(dataset, journal) for kind in entry["files"]} - kinds
    if kinds and lost:
        raise UpernetError(
            f"{journal.folder}: an earlier run had annotations of {dataset} that this one lacks "
            f"({', '.join(sorted(lost))}); give all of its folders again, or another OUT."
        )


def photos_that_are_gone(dataset: str, items: Sequence[Item], flaws: Sequence[Flaw], journal: Journal) -> list[Flaw]:
    """Return a flaw if photos that an earlier run converted are neither found nor among the flaws."""
    there = {found.name for found in (*items, *flaws) if found.dataset == dataset}
    gone = sorted(entry["key"][1] for entry in _earlier(dataset, journal) if entry["key"][1] not in there)
    text = f"{dataset}: photos that an earlier run converted are gone: {len(gone)}, first "
    return [Flaw(dataset, "", "incomplete", f"{text}{gone[0]}.")] if gone else []


def _earlier(dataset: str, journal: Journal) -> list[Entry]:
    return [entry for key, entry in journal.entries.items() if key[0] == dataset and entry["row"]]
