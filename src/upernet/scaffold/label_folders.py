"""A folder of photos per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from upernet.data.images import read_header
from upernet.errors import UpernetError
from upernet.scaffold.classes import ClassPlan, PlannedClass
from upernet.scaffold.found import Found, FoundLevel, FoundPhoto, place_of
from upernet.scaffold.layouts import splits_of
from upernet.scaffold.listing import Listing, Progress
from upernet.scaffold.measure import in_threads
from upernet.scaffold.questions import Answers
from upernet.scaffold.words import level_in, meaning_of
from upernet.taxonomy import list_taxonomies, load_taxonomy
from upernet.taxonomy.levels import LEVEL_KINDS

LEAST_PHOTOS = 2
"""Photos of a class on average; with fewer, the folders are something else."""


def find_label_folders(
    listing: Listing, answers: Answers, level: str | None, progress: Progress | None
) -> Found | None:
    """Return the photos of a folder with one folder per class; None if the folder is not laid out so.

    Raises:
        UpernetError: No photo can be read.
    """
    by_parent: dict[str, dict[PurePosixPath, tuple[str, str]]] = {}
    for path in listing.images:
        *above, own = path.parent.parts or ("",)
        meanings = [meaning_of(part) for part in above]
        if not own or ((meaning := meaning_of(own)) and (meaning.split or meaning.role)):
            continue
        parent = "/".join(m.pattern if m and m.split else part for part, m in zip(above, meanings, strict=True)) or "."
        split = next((m.split for m in meanings if m and m.split), "")
        by_parent.setdefault(parent, {})[path] = (own, split)
    parent = max(by_parent, key=lambda name: len(by_parent[name]), default="")
    labels = by_parent.get(parent, {})
    counts = Counter(name for name, _ in labels.values())
    if len(counts) < 2 or len(labels) < LEAST_PHOTOS * len(counts):
        return None
    guess = level_in(f"{listing.root.name} {parent}") or _level_of(counts)
    choices = [name for name, kind in LEVEL_KINDS.items() if kind.owned_by is None]
    chosen = level or answers.get("level", "Which level do the classes of the folders belong to?", guess, choices)
    photos, left_out = _usable(listing, labels, parent, progress)
    if not photos:
        raise UpernetError(next(iter(left_out.values())))
    shown = Counter(name for photo in photos for name in photo.classes)
    plan = ClassPlan(
        "values",
        [PlannedClass(name, (), None, shown[name], shown[name]) for name in sorted(counts)],
        where_from="the names of the folders",
    )
    settings = {"kind": "label_folder", "path": parent}
    splits = splits_of(photo.split for photo in photos)
    notes = (
        [] if level else [f"The names of the folders are taken for classes of level {chosen}; --level changes that."]
    )
    rest = len(listing.images) - len(labels)
    if rest:
        notes.append(f"Images outside of the class folders are not used; there {'are' if rest > 1 else 'is'} {rest}.")
    return Found(
        f"a folder of photos per class in {place_of(parent)}",
        settings,
        {chosen: FoundLevel(plan, {})},
        photos,
        splits,
        left_out,
        notes,
    )


def _level_of(names: Iterable[str]) -> str:
    """Return `material` or `texture` if a bundled taxonomy has most of the classes there, else `scene`."""
    folded = {name.casefold().replace("_", " ").replace("-", " ") for name in names}
    taxonomies = [load_taxonomy(name).levels for name in list_taxonomies()]
    known = {
        level: max(len(folded & {*levels[level].names}) for levels in taxonomies if level in levels)
        for level in ("material", "texture")
    }
    best = max(known, key=lambda level: known[level])
    return best if known[best] > len(folded) / 2 else "scene"


def _usable(
    listing: Listing, labels: dict[PurePosixPath, tuple[str, str]], parent: str, progress: Progress | None
) -> tuple[list[FoundPhoto], dict[Path, str]]:
    """Return the photos that can be read, and why the others cannot."""
    step = (lambda done, total: progress("reading photos", done, total)) if progress else None
    paths = [listing.root / path for path in labels]
    photos: list[FoundPhoto] = []
    left_out: dict[Path, str] = {}
    depth = 0 if parent == "." else parent.count("/") + 1
    for (path, (name, split)), header in zip(labels.items(), in_threads(read_header, paths, step), strict=True):
        if isinstance(header, UpernetError):
            left_out[listing.root / path] = str(header)
        else:
            photos.append(FoundPhoto(path, PurePosixPath(*path.parts[depth:]), split, header.size, frozenset((name,))))
    return photos, left_out
