"""Folders of photos and masks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from upernet.errors import UpernetError
from upernet.scaffold.class_tables import ClassTable, find_class_tables
from upernet.scaffold.classes import ClassPlan, plan_classes
from upernet.scaffold.found import Found, FoundLevel, FoundPhoto
from upernet.scaffold.layouts import Layout, MaskLayout, find_layout
from upernet.scaffold.listing import Listing, Progress
from upernet.scaffold.measure import Measurement, measure
from upernet.scaffold.naming import name_classes
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
    levels: dict[str, FoundLevel] = {}
    measurements: dict[str, Measurement] = {}
    left_out: dict[Path, str] = {}
    for name, masks in sorted(chosen.items(), key=lambda item: LEVELS.index(item[0])):
        measured = measure(
            listing.root,
            masks.pairs,
            (lambda done, total: progress("reading masks", done, total)) if progress else None,
        )
        plan = plan_classes(measured, name_classes(measured, tables, given, answers))
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


def _place(folder: str, name: str) -> str:
    place = "the folder itself" if folder == "." else f"{folder}/"
    return place if name == "*" else f"{place} ({name})"


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
