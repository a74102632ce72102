"""Measuring masks: their kind, the values or colors in them, how much of each, and the sizes of photos and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from upernet.data.images import read_color_mask, read_header, read_mask
from upernet.data.sources.colors import color_codes
from upernet.errors import UpernetError
from upernet.scaffold.layouts import Pair

MAX_KEYS = 1000
"""Largest number of values or colors in a mask; more are no classes."""
UNUSABLE_SHARE = 0.1
"""Largest share of pairs that are left out; if more cannot be used, something is wrong with all of them."""

Kind = Literal["values", "colors"]
Step = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class MeasuredMask:
    """A mask: pixels per value or color, and the size of it and its photo."""

    pair: Pair
    kind: Kind
    pixels: dict[int, int]
    """Value, or color code 0xrrggbb, -> number of pixels."""
    palette: dict[int, int]
    """Value -> color code, for the values of a palette image that occur."""
    size: tuple[int, int]
    photo_size: tuple[int, int]


@dataclass
class Measurement:
    """What is in the masks of a level.

    Attributes:
        kind: Whether masks hold class numbers or colors.
        masks: The usable masks.
        unusable: Photo -> why it and its mask cannot be used.
    """

    kind: Kind
    masks: list[MeasuredMask]
    unusable: dict[Path, str] = field(default_factory=dict[Path, str])

    @property
    def pixels(self) -> Counter[int]:
        """Pixels per value or color over all masks."""
        total: Counter[int] = Counter()
        for mask in self.masks:
            total.update(mask.pixels)
        return total

    @property
    def palette(self) -> dict[int, int]:
        """Value -> color code, where the masks have a palette."""
        found: dict[int, int] = {}
        for mask in self.masks:
            found |= mask.palette
        return found


def measure(root: Path, pairs: Sequence[Pair], step: Step | None = None) -> Measurement:
    """Measure all masks of a level.

    Raises:
        UpernetError: There are masks of several kinds, or more of them cannot be used than `UNUSABLE_SHARE`.
    """
    measured: list[MeasuredMask] = []
    unusable: dict[Path, str] = {}
    for pair, found in zip(pairs, in_threads(partial(_measure, root), pairs, step), strict=True):
        if isinstance(found, MeasuredMask):
            measured.append(found)
        else:
            unusable[root / pair.photo] = str(found)
    measured, kind = _of_one_kind(root, measured)
    for mask in measured:
        if mask.size != mask.photo_size:
            size, photo = (f"{width} x {height}" for width, height in (mask.size, mask.photo_size))
            unusable[root / mask.pair.photo] = (
                f"{root / mask.pair.mask}: is {size} pixels, but its photo {mask.pair.photo.name} is {photo} "
                "(upright); resize the mask with nearest neighbor, or export it again."
            )
    if len(unusable) > UNUSABLE_SHARE * len(pairs):
        first = next(iter(unusable.values()))
        others = (
            f" The same or the like holds for {len(unusable) - 1} more of {len(pairs)} masks."
            if len(unusable) > 1
            else ""
        )
        raise UpernetError(first + others)
    return Measurement(kind, [mask for mask in measured if root / mask.pair.photo not in unusable], unusable)


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], step: Step | None = None
) -> Iterator[Result | UpernetError]:
    """Yield the results of `function` in order, computed on several threads; an `UpernetError` that it raises, too."""

    def call(item: Item) -> Result | UpernetError:
        try:
            return function(item)
        except UpernetError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for number, result in enumerate(pool.map(call, items), 1):
            if step:
                step(number, len(items))
            yield result


def _measure(root: Path, pair: Pair) -> MeasuredMask:
    path = root / pair.mask
    photo, header = read_header(root / pair.photo), read_header(path)
    if header.format in ("JPEG", "MPO"):
        raise UpernetError(
            f"{path}: is a JPEG, which blurs the classes at their borders; export the mask again as PNG."
        )
    kind: Kind = "values" if header.mode in ("1", "L", "P") or header.mode.startswith("I") else "colors"
    pixels = _count_values(path) if kind == "values" else _count_colors(path)
    if len(pixels) > MAX_KEYS:
        what = "values" if kind == "values" else "colors"
        raise UpernetError(
            f"{path}: has {len(pixels)} {what}, too many for classes; it may be a photo, a depth map or a blurred "
            "mask. Give masks with one value or color per class, saved as PNG."
        )
    colors = dict(enumerate(red << 16 | green << 8 | blue for red, green, blue in header.palette))
    palette = {value: colors[value] for value in pixels if value in colors}
    return MeasuredMask(pair, kind, pixels, palette, header.size, photo.size)


def _count_values(path: Path) -> dict[int, int]:
    return _counts(read_mask(path))


def _count_colors(path: Path) -> dict[int, int]:
    return _counts(color_codes(read_color_mask(path)))


def _counts(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _of_one_kind(root: Path, masks: list[MeasuredMask]) -> tuple[list[MeasuredMask], Kind]:
    """Return the masks with their common kind.

    Palette images whose palettes differ, as image editors write them, hold colors.
    """
    kinds = {mask.kind: mask for mask in reversed(masks)}
    palettes = [mask for mask in masks if mask.palette]
    if "colors" in kinds and len(palettes) + sum(mask.kind == "colors" for mask in masks) == len(masks):
        differ = True
    elif len(kinds) > 1:
        first, second = (root / kinds[kind].pair.mask for kind in ("values", "colors"))
        raise UpernetError(
            f"{first} holds class numbers, but {second} holds colors; put masks of only one kind into the folder."
        )
    else:
        colors: dict[int, int] = {}
        differ = any(
            colors.setdefault(value, color) != color for mask in palettes for value, color in mask.palette.items()
        )
    if not differ:
        return masks, masks[0].kind if masks else "values"
    return [mask if mask.kind == "colors" else _by_color(mask) for mask in masks], "colors"


def _by_color(mask: MeasuredMask) -> MeasuredMask:
    pixels: Counter[int] = Counter()
    for value, count in mask.pixels.items():
        pixels[mask.palette.get(value, value * 0x010101)] += count
    return MeasuredMask(mask.pair, "colors", dict(pixels), {}, mask.size, mask.photo_size)


def spread(sizes: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the smallest, median and largest of the sizes (width, height), by their short side."""
    ordered = sorted(sizes, key=lambda size: (min(size), max(size)))
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
