"""Folders of photos and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from upernet.errors import UpernetError
from upernet.scaffold.class_tables import ClassTable, find_class_tables
from upernet.scaffold.classes import ClassPlan, plan_classes
from upernet.scaffold.found import Found, FoundLevel, FoundPhoto, place_of
from upernet.scaffold.layouts import Layout, MaskLayout, find_layout
from upernet.scaffold.listing import Listing, Progress
from upernet.scaffold.measure import Measurement, measure
from upernet.scaffold.naming import BACKGROUND, name_classes
from upernet.scaffold.parts import OwnedMask, owners
from upernet.scaffold.questions import Answers
from upernet.taxonomy.levels import LEVELS


def find_masks(
    listing: Listing, given: ClassTable | None, answers: Answers, level: str | None, progress: Progress | None
) -> Found | None:
    """Return the photos and masks of a folder; None if there are no images that look like masks.

    Raises:
        UpernetError: The masks cannot be used.
    """
    layout = find_layout(listing)
    if layout is None:
        return None
    chosen, notes = _one_per_level(layout, level)
    tables = list(find_class_tables(listing))
    if given is not None and len(chosen) > 1:
        tables, given = [given, *tables], None  # it may be about one of the levels
    levels: dict[str, FoundLevel] = {}
    measurements: dict[str, Measurement] = {}
    left_out: dict[Path, str] = {}
    for name, masks in sorted(chosen.items(), key=lambda item: LEVELS.index(item[0])):
        measured = measure(
            listing.root,
            masks.pairs,
            (lambda done, total: progress("reading masks", done, total)) if progress else None,
        )
        plan = plan_classes(
            measured, name_classes(measured, _tables_of(name, listing.root, chosen, tables), given, answers)
        )
        levels[name] = FoundLevel(plan, _settings(masks, plan))
        measurements[name] = measured
        notes += plan.notes
        left_out |= measured.unusable
        left_out |= {
            listing.root / path: f"{listing.root / path}: has no mask."
            for path in masks.photos_without
            if _is_annotated_split(path, masks)
        }
        left_out |= {
            listing.root / path: f"{listing.root / path}: is a mask without a photo." for path in masks.masks_without
        }
    if "part" in levels:
        levels["part"] = _with_owners(listing.root, chosen, levels)
    notes += _unused(listing, layout)
    photos = _photos(listing.root, chosen, levels, measurements)
    if not photos:
        raise UpernetError(
            f"{listing.root}: no photo has masks of all levels; remove the folders of the levels that are incomplete."
        )
    settings: dict[str, Any] = {"kind": "mask_folder", "path": ".", "photos": layout.photos}
    if layout.photo_name != "*":
        settings["photo_name"] = layout.photo_name
    first = next(iter(chosen.values()))
    described = f"photos in {_place(layout.photos, layout.photo_name)}, masks in {_place(first.folder, first.name)}"
    return Found(described, settings, levels, photos, layout.splits, left_out, notes)


def _unused(listing: Listing, layout: Layout) -> list[str]:
    """Return a note on images that are neither photos nor masks of the layout."""
    used: set[PurePosixPath] = set()
    for masks in layout.masks:
        used |= {path for pair in masks.pairs for path in (pair.photo, pair.mask)}
        used |= {*masks.photos_without, *masks.masks_without}
    rest = [path for path in listing.images if path not in used]
    return [f"{len(rest)} other images, such as {rest[0]}, are not used."] if rest else []


def _tables_of(
    level: str, root: Path, chosen: Mapping[str, MaskLayout], tables: Sequence[ClassTable]
) -> list[ClassTable]:
    """Return the tables in the folder of a level's masks or, if there are none, those outside of such folders."""

    def inside(table: ClassTable, masks: MaskLayout) -> bool:
        folder = masks.folder.partition("{split}")[0]
        return len(chosen) > 1 and table.path.parent.is_relative_to(root / folder)

    own = [table for table in tables if inside(table, chosen[level])]
    return own or [table for table in tables if not any(inside(table, masks) for masks in chosen.values())]


def _place(folder: str, name: str) -> str:
    return place_of(folder) if name == "*" else f"{place_of(folder)} ({name})"


def _one_per_level(layout: Layout, level: str | None) -> tuple[dict[str, MaskLayout], list[str]]:
    """Return the masks of each level, and notes on those that are not used."""
    chosen: dict[str, MaskLayout] = {}
    notes: list[str] = []
    for masks in layout.masks:
        own = masks.level or level or "object"
        if own in ("scene", "part") and (
            own == "scene" or not any(other.level in (None, "object") for other in layout.masks)
        ):
            own = "object"
        if own in chosen:
            notes.append(
                f"The masks in {_place(masks.folder, masks.name)} are not used, because those in "
                f"{_place(chosen[own].folder, chosen[own].name)} are of the same level."
            )
        else:
            chosen[own] = masks
    return chosen, notes


def _is_annotated_split(photo: PurePosixPath, masks: MaskLayout) -> bool:
    """Return whether the folder of a photo without a mask holds photos that have one; otherwise, it is no data."""
    return any(pair.photo.parent == photo.parent for pair in masks.pairs)


def _with_owners(root: Path, chosen: Mapping[str, MaskLayout], levels: Mapping[str, FoundLevel]) -> FoundLevel:
    """Return the level of the parts with the objects that own them.

    Raises:
        UpernetError: A part lies on no object.
    """
    part_masks = {pair.photo: pair.mask for pair in chosen["part"].pairs}
    both = [
        OwnedMask(root / pair.mask, root / part_masks[pair.photo])
        for pair in chosen["object"].pairs
        if pair.photo in part_masks
    ]
    found = levels["part"]
    parts_of = owners(both, levels["object"].plan, found.plan)
    owned = {part for parts in parts_of.values() for part in parts}
    for entry in found.plan.classes:
        if entry.name not in owned and entry.name != BACKGROUND:
            raise UpernetError(
                f"{root / chosen['part'].folder}: the part {entry.name} lies on no object of the masks in "
                f"{chosen['object'].folder}; correct the masks, or remove one of the folders."
            )
    return replace(found, parts_of=parts_of)


def _settings(masks: MaskLayout, plan: ClassPlan) -> dict[str, Any]:
    settings: dict[str, Any] = {"folder": masks.folder}
    if masks.name != "*":
        settings["name"] = masks.name
    if plan.kind == "colors":
        colors = {f"#{key:06x}": entry.name for entry in plan.classes for key in entry.keys}
        settings["colors"] = colors | {f"#{key:06x}": None for key in plan.unknown}
    else:
        settings["classes"] = {key: entry.name for entry in plan.classes for key in entry.keys}
        settings["ignore"] = sorted(plan.unknown)
    return settings


def _photos(
    root: Path, chosen: dict[str, MaskLayout], levels: dict[str, FoundLevel], measurements: dict[str, Measurement]
) -> list[FoundPhoto]:
    """Return the photos that have a usable mask of every level."""
    found: dict[PurePosixPath, FoundPhoto] = {}
    counts: Counter[PurePosixPath] = Counter()
    for name in chosen:
        names = {key: entry.name for entry in levels[name].plan.classes for key in entry.keys}
        for mask in measurements[name].masks:
            path = mask.pair.photo
            shown = frozenset(names[key] for key in mask.pixels if key in names)
            earlier = found.get(path)
            found[path] = FoundPhoto(
                path, path, mask.pair.split, mask.photo_size, shown | (earlier.classes if earlier else frozenset())
            )
            counts[path] += 1
    return [found[path] for path in sorted(found) if counts[path] == len(chosen)]
