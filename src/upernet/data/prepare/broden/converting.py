"""Conversion of one photo: its raw labels to label maps of the taxonomy, one PNG per level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upernet.data.images import read_image
from upernet.data.prepare.broden.assignment import UNKNOWN, Assignment
from upernet.data.prepare.broden.sources import Flaw, Item, Reader
from upernet.errors import UpernetError, shorten
from upernet.files import atomic_path
from upernet.taxonomy import IGNORE, Taxonomy

NARROW = 255
"""Most labels of a level whose maps have 8 bits; 255 is left for unknown."""
JPEG_QUALITY = 95


@dataclass
class Converted:
    """What became of one photo."""

    item: Item
    row: dict[str, Any] | None = None
    """Its row of the index; None: it was left out."""
    flaws: list[Flaw] = field(default_factory=list[Flaw])
    unknown: dict[str, dict[str, int]] = field(default_factory=dict[str, "dict[str, int]"])
    """Level -> name of a raw label that the assignment does not know -> pixels."""
    classes: dict[str, dict[int, int]] = field(default_factory=dict[str, "dict[int, int]"])
    """Level -> label -> pixels, or photos for labels of whole photos."""
    size: int = 0
    """Bytes written."""


class Converter:
    """Converts the photos of one data set.

    Args:
        out: The folder that is prepared.
        reader: Reads the raw labels.
        assignment: Assigns them to classes.
        short_side: Short side in pixels to which larger photos are reduced; 0: none is.
    """

    def __init__(self, out: Path, reader: Reader, assignment: Assignment, short_side: int) -> None:
        self.out = out
        self.reader = reader
        self.assignment = assignment
        self.short_side = short_side if reader.reduces else 0
        self.tables = {level: assignment.lookup(reader, level) for level in masked_levels(assignment.taxonomy)}

    def __call__(self, item: Item) -> Converted:
        """Write the photo and its label maps; a photo that cannot be used becomes a flaw.

        Raises:
            UpernetError: A file cannot be written.
        """
        converted = Converted(item)
        try:
            picture = read_image(item.photo)
            size = self._size(picture.size)
            maps = self._label_maps(item, picture.size, size, converted)
        except UpernetError as error:
            converted.flaws.append(Flaw(item.dataset, item.name, "damaged", str(error)))
            return converted
        labels = self._image_labels(item, converted)
        if not converted.classes:
            text = f"{item.photo}: nothing in it belongs to a class."
            converted.flaws.append(Flaw(item.dataset, item.name, "unannotated", text))
            return converted
        converted.row = self._row(item, size, maps, labels)
        for level, values in maps.items():
            kind = np.uint8 if unknown_value(self.assignment.taxonomy, level) < 256 else np.uint16
            with atomic_path(self.out / converted.row[f"{level}_mask"]) as path:
                Image.fromarray(values.astype(kind)).save(path)
                converted.size += path.stat().st_size
        with atomic_path(self.out / converted.row["file"]) as path:
            _save_photo(item.photo, picture, size, path)
            converted.size += path.stat().st_size
        return converted

    def _row(
        self, item: Item, size: tuple[int, int], maps: Mapping[str, np.ndarray], labels: Mapping[str, int]
    ) -> dict[str, Any]:
        place = f"{item.dataset}/{item.name}"
        row: dict[str, Any] = {"file": f"photos/{place}.jpg", "dataset": item.dataset}
        row |= {"width": size[0], "height": size[1]}
        for level in self.assignment.taxonomy.levels.values():
            if level.name in self.tables:
                row[f"{level.name}_mask"] = f"{level.name}/{place}.png" if level.name in maps else None
            else:
                row[level.name] = level.names[labels[level.name]] if level.name in labels else None
        return row

    def _image_labels(self, item: Item, converted: Converted) -> dict[str, int]:
        labels: dict[str, int] = {}
        for level, raw in item.names.items():
            label = self.assignment.label(item.dataset, level, raw)
            if label == UNKNOWN:
                text = f"{item.photo}: its {level} {shorten(raw)} has no class in the assignment."
                converted.flaws.append(Flaw(item.dataset, item.name, "unknown-label", text))
            elif label != IGNORE:
                labels[level] = label
                converted.classes[level] = {label: 1}
        return labels

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the written photo: both sides of larger ones shrink until the short one fits."""
        if not self.short_side or min(size) <= self.short_side:
            return size
        factor = self.short_side / min(size)
        return round(size[0] * factor), round(size[1] * factor)

    def _label_maps(
        self, item: Item, photo_size: tuple[int, int], size: tuple[int, int], converted: Converted
    ) -> dict[str, np.ndarray]:
        """Return the label maps, H x W of the written photo, by level."""
        maps: dict[str, np.ndarray] = {}
        for level, raw in self.reader.read(item).items():
            if level not in self.tables:
                continue
            if not _fits(raw.shape, photo_size, self.reader.scaled):
                height, width = raw.shape
                raise UpernetError(
                    f"{item.photo}: is {photo_size[0]} x {photo_size[1]} pixels, but its map of level {level} is "
                    f"{width} x {height}; unpack the archive again."
                )
            if raw.shape != (size[1], size[0]):
                raw = np.asarray(Image.fromarray(raw).resize(size, Image.Resampling.NEAREST))
            maps[level] = self._look_up(level, raw, item, converted)
        if "part" in maps and "object" in maps:
            maps["part"] = owned_parts(maps["part"], maps["object"], self.assignment.taxonomy)
        elif "part" in maps:
            del maps["part"]
        for level, values in list(maps.items()):
            found, counts = np.unique(values, return_counts=True)
            known = (found > 0) & (found != unknown_value(self.assignment.taxonomy, level))
            if known.any():
                pixels = zip(found[known].tolist(), counts[known].tolist(), strict=True)
                converted.classes[level] = dict(pixels)
            else:
                del maps[level]
        return maps

    def _look_up(self, level: str, raw: np.ndarray, item: Item, converted: Converted) -> np.ndarray:
        table = self.tables[level]
        inside = (raw >= 0) & (raw < len(table))
        labels = np.where(inside, table[np.where(inside, raw, 0)], UNKNOWN)
        if (lost := labels == UNKNOWN).any():
            found, counts = np.unique(raw[lost], return_counts=True)
            names = [self.reader.title(item, level, number) for number in found.tolist()]
            converted.unknown[level] = dict(zip(names, counts.tolist(), strict=True))
            shown = ", ".join(shorten(name) for name in names[:4])
            text = f"{item.photo}: has no class for the raw {level} labels {shown}."
            converted.flaws.append(Flaw(item.dataset, item.name, "unknown-label", text))
            labels[lost] = 0
        return labels


def masked_levels(taxonomy: Taxonomy) -> list[str]:
    """Return the levels that have label maps; the others have one label per photo."""
    return [level for level in ("object", "part", "material") if level in taxonomy.levels]


def unknown_value(taxonomy: Taxonomy, level: str) -> int:
    """Return the value of a label map that means unknown: 255, or 65535 where 255 may be a label."""
    return 255 if taxonomy.level(level).num_classes <= NARROW else 65535


def owned_parts(parts: np.ndarray, objects: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """Return the map of parts that counts: each part inside an object that has it.

    As in the published code, an object is annotated with parts in a photo if any of its parts is there. Then its other
    pixels are known to show none of them (0). All other pixels are unknown (`unknown_value`).

    Args:
        parts: Part labels, H x W.
        objects: Object labels, H x W.
        taxonomy: Says which object has which parts.
    """
    owned = np.full(parts.shape, unknown_value(taxonomy, "part"), np.int32)
    present = set(np.unique(objects).tolist())
    for group in taxonomy.part_groups:
        if group.owner in present:
            inside = objects == group.owner
            listed = inside & np.isin(parts, group.parts[1:])
            if listed.any():
                owned[inside] = 0
                owned[listed] = parts[listed]
    return owned


def _fits(shape: tuple[int, ...], size: tuple[int, int], scaled: bool) -> bool:
    """Return whether a label map has the size of the photo or, if `scaled`, its proportions up to rounding."""
    height, width = shape
    return (width, height) == size or (scaled and abs(width * size[1] - height * size[0]) <= max(size))


def _save_photo(source: Path, picture: Image.Image, size: tuple[int, int], path: Path) -> None:
    if size == picture.size and _is_jpeg(source):
        path.write_bytes(source.read_bytes())
    else:
        picture.resize(size, Image.Resampling.BICUBIC).save(path, quality=JPEG_QUALITY)


def _is_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"
