"""Example pictures of relations: the part of a photo that shows one, with everything else darkened."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from upernet.data.images import read_image
from upernet.discovery.totals import Example
from upernet.errors import UpernetError
from upernet.inference.label_map import LabelMap
from upernet.inference.saved import ClassMap, ParsedPhoto, read_saved

SIDE = 220
"""Longest side of a picture in pixels."""
MARGIN = 0.3
"""What is shown around a region, as a share of its longer side."""
LEAST = 96
"""Shortest side in pixels, where the photo is large enough, of what is shown of it."""
FADED = 0.6
"""How far the colors of what does not belong to the relation are moved to gray."""
GRAY = 110
BORDER = (255, 212, 0)
"""Color of the line around what belongs to the relation."""
QUALITY = 80

Key = tuple[str, str, str]


def cut_crops(examples: Mapping[Key, Sequence[Example]]) -> dict[Key, list[tuple[str, bytes]]]:
    """Cut a picture for each example of each relation: `(pair, a, b)` -> names of photos and JPEG files.

    Each photo is read once. Examples whose photo or parse is no longer there are left out.
    """
    by_folder: dict[str, list[tuple[Key, int]]] = defaultdict(list)
    for key, found in examples.items():
        for position, example in enumerate(found):
            if example.folder is not None and example.photo is not None:
                by_folder[example.folder].append((key, position))
    cut: dict[tuple[Key, int], tuple[str, bytes]] = {}
    for folder, wanted in sorted(by_folder.items()):
        try:
            parsed = read_saved(Path(folder))
            photo = read_image(parsed.photo or "")
        except UpernetError:
            continue
        for key, position in wanted:
            picture = crop(photo, parsed, *key)
            if picture is not None:
                cut[key, position] = Path(parsed.photo or "").name, _jpeg(picture)
    return {
        key: [cut[key, position] for position in range(len(found)) if (key, position) in cut]
        for key, found in examples.items()
    }


def crop(photo: Image.Image, parsed: ParsedPhoto, pair: str, a: str, b: str) -> Image.Image | None:
    """Cut the largest region of a relation out of a photo; with scenes, show the whole photo.

    Returns:
        None where the photo has another size than its parse, or does not show the relation.
    """
    if photo.size != parsed.size:
        return None
    level_a, level_b = pair.split("-")
    if level_b not in parsed.maps:
        return None
    shown = _mask(parsed.maps[level_b], b)
    box = (0, 0, *photo.size)
    if level_a in parsed.maps:
        shown = shown & _mask(parsed.maps[level_a], a)
        joint = LabelMap(
            pair, shown.astype(np.int16), np.zeros(shown.shape, np.float32), ("", b), ((0, 0, 0),) * 2, True
        )
        regions = joint.regions(b)
        if not regions:
            return None
        box = _around(regions[0].box, photo.size)
    scale = SIDE / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2))
    inside = np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.NEAREST, box))
    lightness = pixels.mean(axis=2, keepdims=True)
    picture = np.where(inside[..., None], pixels, (1 - FADED) * lightness + FADED * GRAY).astype(np.uint8)
    picture[_border(inside)] = BORDER
    return Image.fromarray(picture)


def _border(inside: np.ndarray) -> np.ndarray:
    """Return the pixels outside that touch one inside: bool H x W."""
    padded = np.pad(inside, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return near & ~inside


def _mask(of: ClassMap, name: str) -> np.ndarray:
    return (
        of.labels == of.names.index(name, int(of.background)) if name in of.names[of.background :] else of.labels < -1
    )


def _around(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box with a margin, at least `LEAST` wide and high, inside the photo."""
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    edges: list[tuple[int, int]] = []
    for low, high, most in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        half = max((high - low) / 2 + margin, LEAST / 2)
        center = (low + high) / 2
        edges.append((max(0, int(center - half)), min(most, int(np.ceil(center + half)))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
