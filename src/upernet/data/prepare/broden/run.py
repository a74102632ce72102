"""The whole preparation: find, convert in parallel, index; a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from upernet.data.prepare.broden.assignment import PUBLISHED, Assignment, published, read_assignment
from upernet.data.prepare.broden.changes import (
    origin_of,
    outdated,
    photos_that_are_gone,
    refuse_fewer_annotations,
)
from upernet.data.prepare.broden.converting import Converted, Converter, masked_levels
from upernet.data.prepare.broden.counting import COUNTED, Counts, assignment_text, choose, count
from upernet.data.prepare.broden.journal import Entry, Journal
from upernet.data.prepare.broden.options import Folders, Options, open_readers
from upernet.data.prepare.broden.recipe import recipe_text
from upernet.data.prepare.broden.report import Estimate, Report, summarize
from upernet.data.prepare.broden.sources import Flaw, Item, Reader
from upernet.data.prepare.broden.splits import read_lists, split_by_lists
from upernet.data.prepare.broden.workers import work
from upernet.errors import UpernetError, did_you_mean
from upernet.files import write_text
from upernet.taxonomy import load_taxonomy

Progress = Callable[[int, int], None]
SAMPLE = 16
"""Photos of each data set that an estimate converts."""
FORMAT = 2
"""Version of what is written; a folder of another version is not continued."""


@dataclass(frozen=True)
class _Found:
    """What there is to convert."""

    readers: list[Reader]
    items: list[Item]
    flaws: list[Flaw]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        for item in self.items:
            splits = counts.setdefault(item.dataset, {})
            splits[item.split] = splits.get(item.split, 0) + 1
        return counts


def prepare_broden(
    out: str | Path, folders: Folders, options: Options | None = None, progress: Progress | None = None
) -> Report:
    """Write Broden+, or the part of it that the given data sets make, to the folder `out`.

    Files appear whole. A run that was stopped goes on when it is repeated. Data sets may be given in several runs;
    those that are not given stay as they are.

    Args:
        out: The folder.
        folders: Where the data sets are.
        options: Choices; the defaults give the published result.
        progress: Called with the number of photos done and of photos in all; first while labels are counted, if they
            are, then while photos are converted.

    Returns:
        A report, which is also written to `out/report.json`.

    Raises:
        UpernetError: No data set is given or one is not what it should be, a flaw is refused, the folder was prepared
            with other options or annotations, it cannot be written, or no photo can be used.
    """
    out, options, progress = Path(out), options or Options(), progress or _silent
    found = _find(folders, options)
    with Journal(out, _settings(options)) as journal:
        for reader in found.readers:
            refuse_fewer_annotations(reader.dataset, found.items, journal)
            gone = photos_that_are_gone(reader.dataset, found.items, found.flaws, journal)
            _refuse(gone, options)
            found.flaws.extend(gone)
        assignment = _assign(out, found, options, progress)
        origins = {(item.dataset, item.name): origin_of(item, assignment) for item in found.items}
        journal.forget(outdated(journal, {reader.dataset for reader in found.readers}, origins))
        missing = [item for item in found.items if (item.dataset, item.name) not in journal.entries]
        new = 0
        for done, converted in enumerate(_convert(out, found.readers, assignment, missing, options), 1):
            item = converted.item
            journal.add(_entry(converted, origins[item.dataset, item.name]))
            new += converted.row is not None
            progress(len(found.items) - len(missing) + done, len(found.items))
        journal.finish()
        return _finish(out, journal, found, assignment, new, options)


def _silent(done: int, total: int) -> None:
    """Show no progress."""


def _finish(out: Path, journal: Journal, found: _Found, assignment: Assignment, new: int, options: Options) -> Report:
    """Write the names of the labels, the recipe and the report."""
    for level in masked_levels(assignment.taxonomy):
        names = assignment.taxonomy.level(level).names
        write_text(out / level / "labels.txt", "".join(f"{label}\t{name}\n" for label, name in enumerate(names)))
    report = summarize(out, journal.entries.values(), found.flaws, assignment.taxonomy, new)
    write_text(out / "report.json", json.dumps(report.to_dict(), indent=1) + "\n")
    rows = [(entry["split"], entry["row"]) for entry in journal.entries.values() if entry["row"]]
    if not rows:
        reason = f" ({report.flaws[0].text.removesuffix('.')})" if report.flaws else ""
        raise UpernetError(f"{out}: not one photo can be used{reason}; the reasons are in report.json there.")
    write_text(out / "recipe.yaml", recipe_text(rows, assignment.taxonomy, options.labels == PUBLISHED))
    return report


def estimate_broden(
    out: str | Path, folders: Folders, options: Options | None = None, progress: Progress | None = None
) -> Estimate:
    """Return what `prepare_broden` would convert and how much disk it would take; nothing is written to `out`.

    Raises:
        UpernetError: As `prepare_broden`.
    """
    options = options or Options()
    found = _find(folders, options)
    flaws, sampled, size = list(found.flaws), 0, 0.0
    place = next(place for place in (Path(out).absolute(), *Path(out).absolute().parents) if place.is_dir())
    with TemporaryDirectory(prefix="upernet-") as folder:
        assignment = _assign(Path(folder), found, options, progress or _silent)
        for reader in found.readers:
            items = [item for item in found.items if item.dataset == reader.dataset]
            sample = items[:: max(1, -(-len(items) // SAMPLE))]
            done = list(_convert(Path(folder), [reader], assignment, sample, options))
            flaws += [flaw for converted in done for flaw in converted.flaws]
            sampled += len(done)
            size += sum(converted.size for converted in done) / max(1, len(done)) * len(items)
    return Estimate(found.counts, flaws, sampled, round(size), shutil.disk_usage(place).free)


def _find(folders: Folders, options: Options) -> _Found:
    found = _Found(open_readers(folders, options), [], [])
    splits = read_lists(options.lists) if options.lists else None
    for reader in found.readers:
        items, flaws = reader.find()
        if splits is not None:
            items, unlisted = split_by_lists(items, splits)
            flaws += unlisted
        _refuse(flaws, options)
        _check_names(items)
        found.items.extend(items)
        found.flaws.extend(flaws)
    return found


def _check_names(items: Sequence[Item]) -> None:
    """Refuse photos that would be written to the same file, on disks that ignore case, too."""
    photos: dict[str, Path] = {}
    for item in items:
        other = photos.setdefault(item.name.casefold(), item.photo)
        if other != item.photo:
            raise UpernetError(f"{item.photo}: has the name of {other}; take one of them away.")


def _assign(out: Path, found: _Found, options: Options, progress: Progress) -> Assignment:
    """Return the assignment of raw labels to classes, which is written to `out` unless it is the published one."""
    if options.labels == PUBLISHED:
        return published()
    own, taxonomy_file = out / "assignment.yaml", out / "taxonomy.yaml"
    if options.labels != COUNTED:
        assignment = _own_assignment(options)
    elif own.is_file() and taxonomy_file.is_file():  # an earlier run counted
        return read_assignment(own, load_taxonomy(taxonomy_file), COUNTED)
    else:
        counters = {reader.dataset: partial(count, reader) for reader in found.readers}
        counts = Counts()
        for done, one in enumerate(work(found.items, counters, options.workers), 1):
            counts += one
            progress(done, len(found.items))
        assignment = choose(counts, options.counting)
    write_text(taxonomy_file, yaml.safe_dump(assignment.taxonomy.to_dict(), sort_keys=False, allow_unicode=True))
    write_text(own, assignment_text(assignment))
    return assignment


def _convert(
    out: Path, readers: Sequence[Reader], assignment: Assignment, items: Sequence[Item], options: Options
) -> Iterator[Converted]:
    converters = {reader.dataset: Converter(out, reader, assignment, options.short_side) for reader in readers}
    for converted in work(items, converters, options.workers):
        _refuse(converted.flaws, options)
        yield converted


def _refuse(flaws: Sequence[Flaw], options: Options) -> None:
    """Raise UpernetError if one of the flaws is of a kind that the user refuses."""
    for flaw in flaws:
        if {flaw.kind, "all"} & options.refuse:
            raise UpernetError(f"{flaw.text.removesuffix('.')} ({flaw.kind} photos are refused by --refuse).")


def _settings(options: Options) -> Mapping[str, Any]:
    """Return what decides on the content of the folder."""
    settings: dict[str, Any] = {"format": FORMAT, "short_side": options.short_side, "lists": options.lists is not None}
    if options.labels == COUNTED:
        return settings | {"labels": COUNTED, "counting": asdict(options.counting)}
    if options.labels == PUBLISHED:
        return settings | {"labels": PUBLISHED}
    return settings | {"labels": _own_assignment(options).digest}


def _own_assignment(options: Options) -> Assignment:
    if not Path(options.labels).exists():
        hint = did_you_mean(str(options.labels), (PUBLISHED, COUNTED))
        raise UpernetError(f"{options.labels}: no such file{hint}; give {PUBLISHED}, {COUNTED} or a file.")
    return read_assignment(Path(options.labels), load_taxonomy(options.taxonomy), "own")


def _entry(converted: Converted, origin: str) -> Entry:
    item = converted.item
    return {
        "key": [item.dataset, item.name],
        "split": item.split,
        "files": sorted(item.files),
        "origin": origin,
        "row": converted.row,
        "flaws": [asdict(flaw) for flaw in converted.flaws],
        "unknown": converted.unknown,
        "classes": converted.classes,
        "size": converted.size,
    }
