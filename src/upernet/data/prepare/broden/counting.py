"""A label set of one's own: count the raw labels of all photos, merge those that mean the same, keep the frequent ones.

The published label set was made like this, then corrected by hand: objects in at least 50 photos and 50,000 pixels,
parts of an object in at least 20 photos (paper, section 3.1).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from upernet.data.prepare.broden.ade20k import NO_SCENE, scene_keys
from upernet.data.prepare.broden.assignment import NO_CLASS, Assignment
from upernet.data.prepare.broden.pascal import POSITIONS, collapsed
from upernet.data.prepare.broden.sources import Item, Reader
from upernet.errors import UpernetError
from upernet.taxonomy import Taxonomy

COUNTED = "counted"
Raw = tuple[str, str]
"""Data set, and key of a raw label in assignments."""


@dataclass(frozen=True)
class Counting:
    """Which classes a counted label set has."""

    min_photos: int = 50
    """Photos that an object or a material must be in."""
    min_pixels: int = 50_000
    """Pixels that an object or a material must have in all photos."""
    min_part_photos: int = 20
    """Photos that a part must be in, counted for each object."""
    min_scene_photos: int = 1
    """Photos that a scene must have."""
    synonyms: bool = True
    """Whether plurals, and names of one data set that are synonyms in another, are merged."""
    collapse: tuple[str, ...] = POSITIONS
    """Words that are dropped from the names of parts: a left and a right arm are arms."""


@dataclass
class Counts:
    """Photos and pixels of raw labels."""

    photos: dict[str, Counter[Raw]] = field(default_factory=lambda: defaultdict(Counter))
    """Level -> raw label -> photos."""
    pixels: dict[str, Counter[Raw]] = field(default_factory=lambda: defaultdict(Counter))
    pairs: Counter[tuple[Raw, Raw]] = field(default_factory=Counter["tuple[Raw, Raw]"])
    """Object and part -> photos that have pixels of both."""
    titles: dict[str, dict[Raw, str]] = field(default_factory=lambda: defaultdict(dict))
    """Level -> raw label -> its names, separated by commas or semicolons."""

    def __iadd__(self, other: Counts) -> Counts:
        """Add the counts of other photos."""
        for level in other.photos:
            self.photos[level] += other.photos[level]
            self.pixels[level] += other.pixels[level]
            self.titles[level] |= other.titles[level]
        self.pairs += other.pairs
        return self


def count(reader: Reader, item: Item) -> Counts:
    """Count the raw labels of one photo. A photo that is damaged counts nothing."""
    counts = Counts()
    try:
        maps = {level: raw for level, raw in reader.read(item).items() if raw.size}
    except UpernetError:
        return counts
    titles = reader.titles(item)
    raws: dict[str, dict[int, Raw]] = {}
    for level, raw in maps.items():
        keys = reader.keys(level)
        found, pixels = np.unique(raw, return_counts=True)
        raws[level] = {
            number: (item.dataset, str(number) if keys is None else keys[number])
            for number in found.tolist()
            if number and (keys is None or keys.get(number, NO_CLASS) != NO_CLASS)
        }
        for number, amount in zip(found.tolist(), pixels.tolist(), strict=True):
            if own := raws[level].get(number):
                counts.photos[level][own] = 1
                counts.pixels[level][own] += amount
                counts.titles[level][own] = titles.get(number, own[1]) if keys is None else own[1]
    if {"object", "part"} <= maps.keys() and maps["object"].shape == maps["part"].shape:
        pairs = np.unique(maps["object"].astype(np.int64) * 2**16 + maps["part"])
        for owner, part in (divmod(pair, 2**16) for pair in pairs.tolist()):
            if owner in raws["object"] and part in raws["part"]:
                counts.pairs[raws["object"][owner], raws["part"][part]] = 1
    for level, name in item.names.items():
        key = scene_keys(name)[-1] if level == "scene" else name
        if key and key not in NO_SCENE:
            counts.photos[level][item.dataset, key] = 1
            counts.pixels[level][item.dataset, key] = 0
            counts.titles[level][item.dataset, key] = key
    return counts


def choose(counts: Counts, rules: Counting) -> Assignment:
    """Return the classes that are frequent enough, and which raw labels belong to them.

    Raises:
        UpernetError: No class of any level is frequent enough.
    """
    classes = {
        level: _merge(titles, rules.synonyms, rules.collapse if level == "part" else ())
        for level, titles in counts.titles.items()
    }
    levels: dict[str, Any] = {}
    kept: dict[str, list[str]] = {}
    for level in ("scene", "object", "material", "texture"):
        if level in classes:
            needed = {"scene": rules.min_scene_photos, "texture": 1}.get(level, rules.min_photos)
            pixels = rules.min_pixels if level in ("object", "material") else 0
            if names := _frequent(classes[level], counts.photos[level], counts.pixels[level], needed, pixels):
                kept[level] = names
                levels[level] = {"classes": names}
                if level in ("object", "material"):
                    levels[level]["background"] = NO_CLASS
    if not levels:
        raise UpernetError("no raw label is frequent enough for a class; lower --min-photos and --min-pixels.")
    if "part" in classes and (owned := _owned_parts(counts, classes, set(kept.get("object", ())), rules)):
        kept["part"] = sorted({part for parts in owned.values() for part in parts})
        levels["part"] = {"background": NO_CLASS, "classes": kept["part"], "of": owned}
    taxonomy = Taxonomy.from_dict({"name": COUNTED, "description": "Counted by upernet.", "levels": levels})
    table: dict[str, dict[str, dict[str, int]]] = {}
    for level, names in classes.items():
        labels = {own: taxonomy.level(level).index(own) for own in kept.get(level, ())}
        for (dataset, key), own in sorted(names.items()):
            if own in labels or level not in ("scene", "texture"):
                table.setdefault(dataset, {}).setdefault(level, {})[key] = labels.get(own, 0)
    return Assignment(taxonomy, table, COUNTED)


def assignment_text(assignment: Assignment) -> str:
    """Return an assignment in the form of published.yaml."""
    lines = ['# Class -> raw labels; "-": labels without a class.']
    for dataset, levels in assignment.table.items():
        lines.append(f"{dataset}:")
        for level, labels in levels.items():
            lines.append(f"  {level}:")
            own = assignment.taxonomy.levels.get(level)
            groups: dict[str, list[str]] = defaultdict(list)
            for key, label in labels.items():
                background = own is None or (label == 0 and own.background)
                groups[NO_CLASS if background or own is None else own.names[label]].append(key)
            lines += [
                f"    {_quoted(name)}: [{', '.join(map(_quoted, keys))}]" for name, keys in sorted(groups.items())
            ]
    return "\n".join(lines) + "\n"


def _merge(titles: Mapping[Raw, str], synonyms: bool, collapse: tuple[str, ...]) -> dict[Raw, str]:
    """Return raw label -> name of its class.

    A label is called by its first name or, where several labels of its data set have that name first, by its second.
    With `synonyms`, a plural joins its singular, and a name that is no first name elsewhere joins the class that lists
    it as a synonym.
    """
    names = {raw: [collapsed(name, collapse) or name for name in _names(title)] for raw, title in titles.items()}
    shared = Counter((dataset, found[0]) for (dataset, _), found in names.items())
    own = {
        raw: found[1] if shared[raw[0], found[0]] > 1 and len(found) > 1 else found[0] for raw, found in names.items()
    }
    if not synonyms:
        return own
    title_of_synonym: dict[str, set[str]] = defaultdict(set)
    for raw, found in names.items():
        for name in found:
            title_of_synonym[name].add(own[raw])
    singular = {name: found for name in set(own.values()) if (found := _singular(name, set(own.values())))}
    merged: dict[Raw, str] = {}
    for raw, name in own.items():
        others = title_of_synonym[name] - {name}
        alone = len(names[raw]) == 1 and len(others) == 1 and shared[raw[0], name] <= 1
        elsewhere = {dataset for dataset, key in own if own[dataset, key] in others} - {raw[0]}
        name = next(iter(others)) if alone and elsewhere else name
        merged[raw] = singular.get(name, name)
    return merged


def _names(title: str) -> list[str]:
    return [name for part in re.split(r"[,;]", title) if (name := " ".join(part.lower().split()))] or [title]


def _singular(name: str, known: set[str]) -> str | None:
    return next((stem for end in ("es", "s") if (stem := name.removesuffix(end)) != name and stem in known), None)


def _frequent(
    names: Mapping[Raw, str], photos: Counter[Raw], pixels: Counter[Raw], min_photos: int, min_pixels: int
) -> list[str]:
    """Return the classes with enough photos and pixels, the most frequent first."""
    of_photos, of_pixels = Counter[str](), Counter[str]()
    for raw, name in names.items():
        of_photos[name] += photos[raw]
        of_pixels[name] += pixels[raw]
    enough = [name for name in of_photos if of_photos[name] >= min_photos and of_pixels[name] >= min_pixels]
    return sorted(enough, key=lambda name: (-of_pixels[name], -of_photos[name], name))


def _owned_parts(
    counts: Counts, classes: Mapping[str, Mapping[Raw, str]], objects: set[str], rules: Counting
) -> dict[str, list[str]]:
    """Return object -> its parts, the most frequent first."""
    pairs = Counter[tuple[str, str]]()
    for (owner, part), photos in counts.pairs.items():
        pairs[classes["object"][owner], classes["part"][part]] += photos
    owned: dict[str, list[str]] = {}
    for (owner, part), photos in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0])):
        if owner in objects and photos >= rules.min_part_photos:
            owned.setdefault(owner, []).append(part)
    return owned


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[0-9]+", name) else "'" + name.replace("'", "''") + "'"
