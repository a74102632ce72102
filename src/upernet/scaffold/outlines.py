"""Exports of annotation tools: COCO, Labelme, CVAT."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from upernet.data.images import read_header
from upernet.data.shapes import Drawing, ShapesFile, read_shapes
from upernet.data.sources.polygons import OUTSIDE_SHAPES, PhotosByName
from upernet.errors import UpernetError
from upernet.scaffold.class_tables import ClassTable, TableEntry
from upernet.scaffold.classes import plan_classes
from upernet.scaffold.found import Found, FoundLevel, FoundPhoto, place_of
from upernet.scaffold.layouts import Pair, group_images, splits_of
from upernet.scaffold.listing import Listing, Progress
from upernet.scaffold.measure import MeasuredMask, Measurement, in_threads
from upernet.scaffold.naming import BACKGROUND, name_classes
from upernet.scaffold.questions import Answers
from upernet.scaffold.words import split_in

MOST_UNLABELED = 0.15
"""Share of the pixels outside of all outlines up to which they are taken for unknown; beyond, for a background."""
TRIED_FILES = 200


@dataclass(frozen=True)
class _Files:
    """Files of annotations of one format: their pattern with `{split}`, and word of the split -> files."""

    format: str
    pattern: str
    by_split: Mapping[str, Sequence[PurePosixPath]]


def format_of(path: Path) -> str | None:
    """Return the format of a file of annotations; None if it is something else."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".xml":
                return "cvat" if "<annotations" in (head := file.read(5000)) and "<!DOCTYPE" not in head else None
            values: Any = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    if {"images", "annotations", "categories"} <= values.keys():
        return "coco"
    return "labelme" if {"shapes", "imagePath"} <= values.keys() else None


def find_outlines(listing: Listing, answers: Answers, level: str | None, progress: Progress | None) -> Found | None:
    """Return the annotated photos of a folder; None if it holds no annotations of a known format.

    Raises:
        UpernetError: The annotations cannot be used.
    """
    files = _find_files(listing)
    if files is None:
        return None
    contents: dict[PurePosixPath, ShapesFile] = {}
    left_out: dict[Path, str] = {}
    for own in files.by_split.values():
        for file in own:
            contents[file] = read_shapes(listing.root / file, files.format)
    photo_folder = _photo_folder(listing, contents)
    labels: dict[str, None] = {}
    drawings: dict[PurePosixPath, tuple[Drawing, str]] = {}
    for split, own in files.by_split.items():
        folder = listing.root / photo_folder.replace("{split}", split)
        known = PhotosByName(
            listing.root / path for path in listing.images if (listing.root / path).is_relative_to(folder)
        )
        for file in own:
            labels |= dict.fromkeys(contents[file].labels)
            for drawing in contents[file].drawings:
                photo = known.find(drawing.photo, (listing.root / file).parent)
                if photo is None:
                    left_out[listing.root / file / drawing.photo.name] = (
                        f"{listing.root / file}: lists photo {drawing.photo.name!r}, which is not there."
                    )
                else:
                    drawings[PurePosixPath(photo.relative_to(listing.root).as_posix())] = (drawing, split)
    if not drawings:
        raise UpernetError(
            f"{listing.root}: none of the photos that {next(iter(contents))} lists is there; put them into the folder."
        )
    labels.pop(OUTSIDE_SHAPES, None)
    values = {OUTSIDE_SHAPES: 0, **{label: number for number, label in enumerate(labels, 1)}}
    measured = _measure(listing.root, drawings, values, progress)
    left_out |= measured.unusable
    colors = {name: color for content in contents.values() for name, color in content.colors.items()}
    entries = [TableEntry(name, value, _rgb(colors.get(name))) for name, value in values.items()]
    share = measured.pixels[0] / max(1, sum(measured.pixels.values()))
    outside = "unknown" if share <= MOST_UNLABELED and len(values) > 2 else BACKGROUND
    outside = answers.get(
        "outside",
        f"{100 * share:.0f} % of the pixels are outside of all outlines. Are they `background` or `unknown`?",
        outside,
        (BACKGROUND, "unknown"),
    )
    if outside == "unknown":
        entries[0] = TableEntry("unknown", 0)
    plan = plan_classes(measured, name_classes(measured, (), ClassTable(Path(files.pattern), entries), answers))
    by_value = {value: name for name, value in values.items()}
    classes: dict[str, str | None] = {
        by_value[key]: entry.name for entry in plan.classes for key in entry.keys if by_value[key] != entry.name
    }
    classes |= {by_value[key]: None for key in plan.unknown}
    classes |= dict.fromkeys(plan.never)
    names = {key: entry.name for entry in plan.classes for key in entry.keys}
    photos = [
        FoundPhoto(
            mask.pair.photo,
            mask.pair.photo,
            mask.pair.split,
            mask.photo_size,
            frozenset(names[key] for key in mask.pixels if key in names),
        )
        for mask in measured.masks
    ]
    settings = {
        "kind": "polygons",
        "format": files.format,
        "path": ".",
        "photos": photo_folder,
        "shapes": files.pattern,
    }
    notes = [f"Pixels outside of all outlines ({100 * share:.0f} %) are taken for {outside}.", *plan.notes]
    skipped = sum(drawing.skipped for drawing, _ in drawings.values())
    if skipped:
        notes.append(f"{skipped} points, lines, boxes or other shapes without an outline are not used.")
    title = {"coco": "COCO annotations", "labelme": "Labelme annotations", "cvat": "CVAT annotations"}[files.format]
    shapes = "the same folder" if files.pattern == "." else files.pattern
    return Found(
        f"photos in {place_of(photo_folder)}, {title} in {shapes}",
        settings,
        {level or "object": FoundLevel(plan, {"classes": classes} if classes else {})},
        sorted(photos, key=lambda photo: photo.path),
        splits_of(files.by_split),
        left_out,
        notes,
    )


def _find_files(listing: Listing) -> _Files | None:
    """Return the files of annotations: of the format and in the place with the most files."""
    found: dict[tuple[str, str], dict[str, list[PurePosixPath]]] = {}
    tried: dict[str, int] = {}
    labelme = set[PurePosixPath]()
    for file in listing.texts:
        suffix = file.suffix.lower()
        if suffix not in (".json", ".xml"):
            continue
        tried[suffix] = tried.get(suffix, 0) + 1
        format = "labelme" if file.parent in labelme else None
        if format is None and tried[suffix] <= TRIED_FILES:
            format = format_of(listing.root / file)
        if format == "labelme":
            labelme.add(file.parent)
            place = file.parent  # one file per photo: only folders tell splits apart
        elif format is not None:
            place = file
        else:
            continue
        words = [word for part in place.parts if (word := split_in(PurePosixPath(part).stem))]
        split = words[-1] if words else ""
        pattern = place.as_posix().replace(split, "{split}") if split else place.as_posix()
        found.setdefault((format, pattern), {}).setdefault(split, []).append(file)
    if not found:
        return None
    (format, pattern), by_split = max(found.items(), key=lambda item: (len(item[1]), sum(map(len, item[1].values()))))
    return _Files(format, pattern, by_split)


def _photo_folder(listing: Listing, contents: Mapping[PurePosixPath, ShapesFile]) -> str:
    """Return the folder, with `{split}`, that holds the most of the photos that the files list."""
    names = {drawing.photo.name for content in contents.values() for drawing in content.drawings}
    groups = [group for group in group_images(listing.images) if group.role != "other"]
    return max(
        groups, key=lambda group: (sum(image.path.name in names for image in group.images), group.role == "photo")
    ).pattern


def _measure(
    root: Path,
    drawings: Mapping[PurePosixPath, tuple[Drawing, str]],
    values: Mapping[str, int],
    progress: Progress | None,
) -> Measurement:
    """Draw the masks of all photos and count their pixels."""

    def draw(item: tuple[PurePosixPath, tuple[Drawing, str]]) -> MeasuredMask:
        path, (drawing, split) = item
        size = read_header(root / path).size
        if drawing.size is not None and drawing.size != size:
            own, other = (f"{width} x {height}" for width, height in (drawing.size, size))
            raise UpernetError(
                f"{root / path}: is {other} pixels (upright), but its annotations are for {own}; annotate it again."
            )
        found, counts = np.unique(drawing.draw(values, size), return_counts=True)
        pixels = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return MeasuredMask(Pair(path, path, split), "values", pixels, {}, size, size)

    step = (lambda done, total: progress("drawing masks", done, total)) if progress else None
    items = sorted(drawings.items())
    results = list(zip(items, in_threads(draw, items, step), strict=True))
    unusable = {root / path: str(result) for (path, _), result in results if isinstance(result, UpernetError)}
    masks = [result for _, result in results if isinstance(result, MeasuredMask)]
    if len(unusable) > 0.1 * len(items):
        raise UpernetError(next(iter(unusable.values())))
    return Measurement("values", masks, unusable)


def _rgb(color: str | None) -> tuple[int, int, int] | None:
    return (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)) if color else None
