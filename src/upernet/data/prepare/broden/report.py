"""What a run found and did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from upernet.data.prepare.broden.journal import Entry
from upernet.data.prepare.broden.sources import Flaw
from upernet.taxonomy import LEVEL_KINDS, Taxonomy

PARTLY = frozenset(("damaged", "incomplete"))
"""Kinds of flaws that mean that something is missing from the result."""


@dataclass
class Report:
    """The result of preparing Broden+."""

    folder: Path
    photos: dict[str, dict[str, int]] = field(default_factory=dict[str, "dict[str, int]"])
    """Data set -> split -> photos that the index lists."""
    new: int = 0
    """Photos that this run converted."""
    flaws: list[Flaw] = field(default_factory=list[Flaw])
    """What is missing, damaged, without a class, or not assigned."""
    unknown: dict[str, dict[str, int]] = field(default_factory=dict[str, "dict[str, int]"])
    """Data set and level -> raw label that is not assigned -> pixels."""
    classes: dict[str, dict[str, int]] = field(default_factory=dict[str, "dict[str, int]"])
    """Level -> class -> photos."""
    size: int = 0
    """Bytes of all photos and label maps."""

    @property
    def counts(self) -> dict[str, int]:
        """Kind of flaw -> how many there are."""
        return dict(Counter(flaw.kind for flaw in self.flaws))

    @property
    def complete(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not PARTLY & set(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        values = asdict(self) | {"folder": str(self.folder), "counts": self.counts, "complete": self.complete}
        return values


@dataclass(frozen=True)
class Estimate:
    """What a run would do, by a sample of the photos."""

    photos: dict[str, dict[str, int]]
    """Data set -> split -> photos to convert; of the sample's flawed ones, a share is left out."""
    flaws: list[Flaw]
    """What is missing, and the flaws of the sample."""
    sampled: int
    size: int
    """Bytes that the result will take, about."""
    free: int
    """Bytes that are free where it would be written."""

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON types."""
        return asdict(self)


def summarize(
    folder: Path,
    entries: Iterable[Entry],
    found: Iterable[Flaw],
    taxonomy: Taxonomy,
    new: int,
) -> Report:
    """Return the report on all photos that are done."""
    report = Report(folder, new=new, flaws=list(found))
    classes = {level: Counter[int]() for level in taxonomy.levels}
    for entry in entries:
        dataset, _ = entry["key"]
        report.flaws += [Flaw(**flaw) for flaw in entry["flaws"]]
        report.size += entry["size"]
        if entry["row"]:
            splits = report.photos.setdefault(dataset, {})
            splits[entry["split"]] = splits.get(entry["split"], 0) + 1
            for level, labels in entry["classes"].items():
                classes[level].update({int(label): 1 for label in labels})
        for level, names in entry["unknown"].items():
            lost = report.unknown.setdefault(f"{dataset} {level}", {})
            for name, pixels in names.items():
                lost[name] = lost.get(name, 0) + pixels
    for level, counts in classes.items():
        own = taxonomy.level(level).names
        start = 1 if taxonomy.level(level).background or LEVEL_KINDS[level].owned_by else 0
        report.classes[level] = {own[label]: counts[label] for label in range(start, len(own))}
    return report
