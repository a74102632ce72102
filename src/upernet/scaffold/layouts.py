"""Finding out which images of a folder are photos, which are their masks, and how their names belong together."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from upernet.data.sources.mask_folder import MASK_SUFFIXES, common_name
from upernet.scaffold.listing import Listing
from upernet.scaffold.looks import looks_like_mask
from upernet.scaffold.words import is_mask_end, is_other_end, meaning_of, split_of

LEAST_SHARE = 0.5
"""Share of the masks that must have a photo for a folder to be taken for the folder of the masks."""
SAMPLED_NAMES = 200
TRIED_MASKS = 3


@dataclass(frozen=True)
class Image:
    """An image, by where it is: `split` (the folder's word), `sub` (folders below the group's) and name."""

    path: PurePosixPath
    split: str
    sub: PurePosixPath

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.path.stem


@dataclass
class Group:
    """The images of folders that differ at most in the word of the split.

    Attributes:
        pattern: Path of the folder, with `{split}` in the place of a split's word.
        role: `photo`, `mask` or `other`, as far as names say it.
        level: Level of perception, as far as names say it.
        images: The images.
    """

    pattern: str
    role: str | None
    level: str | None
    images: list[Image] = field(default_factory=list[Image])


@dataclass(frozen=True)
class Pair:
    """A photo and its mask."""

    photo: PurePosixPath
    mask: PurePosixPath
    split: str


@dataclass(frozen=True)
class MaskLayout:
    """Where the masks of one level are.

    Attributes:
        level: Level of perception, as far as names say it.
        folder: Folder of the masks, with `{split}`.
        name: Pattern of their names.
        pairs: The photos and their masks.
        photos_without: Photos that have no mask.
        masks_without: Masks that have no photo.
    """

    level: str | None
    folder: str
    name: str
    pairs: Sequence[Pair]
    photos_without: Sequence[PurePosixPath]
    masks_without: Sequence[PurePosixPath]


@dataclass(frozen=True)
class Layout:
    """Where photos and masks are.

    Attributes:
        photos: Folder of the photos, with `{split}`.
        photo_name: Pattern of their names.
        masks: The masks, the best understood first.
        splits: Split -> word in the names of folders; empty: there are no folders per split.
    """

    photos: str
    photo_name: str
    masks: Sequence[MaskLayout]
    splits: Mapping[str, str]


def find_layout(listing: Listing) -> Layout | None:
    """Return where the photos and masks of a folder are; None if there are no images that look like masks."""
    groups = group_images(listing.images)
    found: list[tuple[Group, str, MaskLayout]] = []
    for masks in groups:
        if masks.role != "mask":
            continue
        fits = [fit for photos in groups if photos.role != "mask" and (fit := _fit(photos, masks))]
        if fits:
            found.append(max(fits, key=lambda fit: (fit[0].role == "photo", len(fit[2].pairs), _near(fit[0], masks))))
    for group in groups:
        if group.role != "other":
            found += _beside(group)
    found = found or _by_content(listing)
    if not found:
        return None
    photos, photo_name, _ = max(found, key=lambda fit: len(fit[2].pairs))
    layouts = [fit[2] for fit in found if fit[0] is photos and fit[1] == photo_name]
    layouts.sort(key=lambda layout: (-len(layout.pairs), _is_colored(layout), layout.folder, layout.name))
    return Layout(photos.pattern, photo_name, layouts, splits_of(pair.split for pair in layouts[0].pairs))


def group_images(images: Iterable[PurePosixPath]) -> list[Group]:
    """Group images by their folders."""
    groups: dict[str, Group] = {}
    for path in images:
        parts = path.parent.parts
        meanings = [meaning_of(part) for part in parts]
        known = [number for number, meaning in enumerate(meanings) if meaning]
        depth = known[-1] + 1 if known else 0
        meant = [meaning for meaning in meanings if meaning]
        names = [meaning.pattern if meaning else part for part, meaning in zip(parts, meanings, strict=True)]
        pattern = "/".join(names[:depth]) or "."
        roles = [meaning.role for meaning in meant if meaning.role]
        levels = [meaning.level for meaning in meant if meaning.level]
        role = "other" if "other" in roles else roles[-1] if roles else None
        split = next((meaning.split for meaning in meant if meaning.split), "")
        group = groups.setdefault(pattern, Group(pattern, role, levels[-1] if levels else None))
        group.images.append(Image(path, split, PurePosixPath(*parts[depth:])))
    for group in groups.values():
        if group.role is None and group.level is not None and all(map(_may_be_mask, group.images)):
            group.role = "mask"  # as in objects/ and materials/ beside images/
    return list(groups.values())


def _may_be_mask(image: Image) -> bool:
    return image.path.suffix.lower() in MASK_SUFFIXES


def unmatched_mask(listing: Listing) -> PurePosixPath | None:
    """Return an image that is a mask, as the name of its folder says."""
    masks = (image.path for group in group_images(listing.images) if group.role == "mask" for image in group.images)
    return next(masks, None)


def splits_of(words: Iterable[str]) -> dict[str, str]:
    """Return split -> word of its folder, in the usual order."""
    by_split = {split: word for word in words if (split := split_of(word))}
    return {split: by_split[split] for split in ("train", "val", "test") if split in by_split}


def _is_colored(layout: MaskLayout) -> bool:
    return "color" in f"{layout.folder}/{layout.name}".lower()


def _near(first: Group, second: Group) -> int:
    """Return how many folders two groups have in common, from the top."""
    same = (own == other for own, other in zip(first.pattern.split("/"), second.pattern.split("/"), strict=False))
    return sum(takewhile(bool, same))


def _fit(photos: Group, masks: Group) -> tuple[Group, str, MaskLayout] | None:
    """Return how the names of two groups belong together, if they do."""
    usable = [image for image in masks.images if image.path.suffix.lower() in MASK_SUFFIXES | {".jpg", ".jpeg"}]
    best: tuple[str, MaskLayout] | None = None
    for photo_name, mask_name in _name_patterns(photos.images, usable):
        layout = _pair(photos, photo_name, masks, mask_name, usable)
        if best is None or len(layout.pairs) > len(best[1].pairs):
            best = (photo_name, layout)
    if best is None or len(best[1].pairs) < LEAST_SHARE * (len(best[1].pairs) + len(best[1].masks_without)):
        return None
    return (photos, *best) if best[1].pairs else None


def _name_patterns(photos: Sequence[Image], masks: Sequence[Image]) -> list[tuple[str, str]]:
    """Return likely patterns of the names of photos and masks, the likeliest first.

    A mask and the photo whose name is most like its own have a beginning or an end in common.
    """
    names = sorted({image.stem for image in photos})
    backward = sorted(name[::-1] for name in names)
    counts: Counter[tuple[str, str]] = Counter()
    step = max(1, len(masks) // SAMPLED_NAMES)
    for mask in masks[::step]:
        if (name := mask.stem) in names[bisect_left(names, name) : bisect_left(names, name) + 1]:
            counts["*", "*"] += 1
            continue
        for other, common in _most_alike(name, names):
            counts[f"*{other[common:]}", f"*{name[common:]}"] += 1
        for other, common in _most_alike(name[::-1], backward):
            counts[f"{other[common:][::-1]}*", f"{name[::-1][common:][::-1]}*"] += 1
    likely = [
        (photo, mask) for (photo, mask), _ in counts.most_common(12) if mask == "*" or any(map(str.isalpha, mask))
    ]
    return [(photo, mask) for photo, mask in likely if not is_other_end(mask)] or likely


def _most_alike(name: str, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the neighbors of a name in a sorted list, and how many characters they begin with in common."""
    position = bisect_left(names, name)
    for other in names[max(0, position - 1) : position + 1]:
        same = (own == theirs for own, theirs in zip(name, other, strict=False))
        common = sum(takewhile(bool, same))
        while common and _is_within_number(name, common) | _is_within_number(other, common):
            common -= 1
        if common:
            yield other, common


def _is_within_number(name: str, position: int) -> bool:
    return name[position - 1 : position].isdigit() and name[position : position + 1].isdigit()


def _pair(photos: Group, photo_name: str, masks: Group, mask_name: str, usable: Sequence[Image]) -> MaskLayout:
    by_split = "{split}" in photos.pattern and "{split}" in masks.pattern

    def key(image: Image, name: str) -> tuple[str, PurePosixPath, str]:
        return split_of(image.split) or "" if by_split else "", image.sub, name

    named = {key(image, name): image for image in usable if (name := common_name(image.stem, mask_name)) is not None}
    pairs: list[Pair] = []
    without: list[PurePosixPath] = []
    mask_paths = {image.path for image in named.values()}
    for image in photos.images:
        name = common_name(image.stem, photo_name)
        if name is None or image.path in mask_paths:
            continue
        mask = named.pop(key(image, name), None)
        if mask is None:
            without.append(image.path)
        else:
            pairs.append(Pair(image.path, mask.path, image.split))
    rest = [image.path for image in named.values()]
    return MaskLayout(masks.level, masks.pattern, mask_name, pairs, without, rest)


def _beside(group: Group) -> list[tuple[Group, str, MaskLayout]]:
    """Return how photos and masks in the same folder belong together: one entry per kind of name that masks have."""
    names = {(image.split, image.sub, image.stem) for image in group.images}
    counts: Counter[str] = Counter()
    for image in group.images:
        if image.path.suffix.lower() not in MASK_SUFFIXES:
            continue
        stem = image.stem
        for position in range(1, len(stem)):
            for name, end, pattern in (
                (stem[:position], stem[position:], f"*{stem[position:]}"),
                (stem[position:], stem[:position], f"{stem[:position]}*"),
            ):
                if is_mask_end(end) and (image.split, image.sub, name) in names:
                    counts[pattern] += 1
    found: list[tuple[Group, str, MaskLayout]] = []
    for pattern in counts:
        usable = [image for image in group.images if common_name(image.stem, pattern) is not None]
        layout = _pair(group, "*", group, pattern, usable)
        others = [path for path in layout.photos_without if not _is_mask_of(path, counts)]
        level = layout.level
        found.append(
            (group, "*", MaskLayout(level, group.pattern, pattern, layout.pairs, others, layout.masks_without))
        )
    return found


def _by_content(listing: Listing) -> list[tuple[Group, str, MaskLayout]]:
    """Return which folders hold photos and masks of the same names where the names of the folders say nothing."""
    groups: dict[str, Group] = {}
    for path in listing.images:
        folder = path.parent.as_posix()
        groups.setdefault(folder, Group(folder, None, None)).images.append(Image(path, "", PurePosixPath()))
    found: list[tuple[Group, str, MaskLayout]] = []
    for masks in groups.values():
        tried = [image.path for image in masks.images[:: max(1, len(masks.images) // TRIED_MASKS)]]
        if all(looks_like_mask(listing.root / path) for path in tried):
            fits = (_fit(photos, masks) for photos in groups.values() if photos is not masks)
            found += [max(own, key=lambda fit: len(fit[2].pairs))] if (own := [fit for fit in fits if fit]) else []
    return found


def _is_mask_of(path: PurePosixPath, patterns: Iterable[str]) -> bool:
    return any(common_name(Path(path).stem, pattern) is not None for pattern in patterns)
