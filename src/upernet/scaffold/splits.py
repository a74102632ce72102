"""Which photos to train on and which to validate on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePosixPath

from upernet.data.sources.lists import read_list
from upernet.errors import UpernetError
from upernet.scaffold.listing import Listing
from upernet.scaffold.words import split_of

SHARE = 0.15
"""Share of the photos to validate on."""
DRAWS = 50
"""Number of random divisions, of which the one with the most classes on both sides is taken."""
FEWEST_VIDEOS = 5
LARGEST_VIDEO = 0.1
FRAMES_TOGETHER = 0.05
"""With fewer or longer videos, runs of frames stay together instead; each has this share of all photos."""
LISTED_SHARE = 0.9


@dataclass(frozen=True)
class SplitPhoto:
    """A photo to be assigned to a split: its path and the classes that it shows."""

    path: PurePosixPath
    classes: frozenset[str]


@dataclass(frozen=True)
class SplitPlan:
    """Split -> its photos, and how they were chosen, for people."""

    photos: Mapping[str, Sequence[PurePosixPath]]
    how: str


def listed_splits(listing: Listing, photos: Sequence[PurePosixPath]) -> SplitPlan | None:
    """Return the splits that list files of the folder give, such as `ImageSets/Segmentation/train.txt`.

    The lists of the folder that names the most photos are taken, if there is one for `train` and one for another split.
    """
    by_name = {key: path for path in photos for key in (path.as_posix(), path.with_suffix("").as_posix())}
    names = Counter(path.stem for path in photos)
    by_name |= {path.stem: path for path in photos if names[path.stem] == 1}
    found: dict[PurePosixPath, dict[str, list[PurePosixPath]]] = {}
    for file in listing.texts:
        split = split_of(file.stem)
        if file.suffix.lower() != ".txt" or split is None:
            continue
        try:
            entries = read_list(listing.root / file)
        except UpernetError:
            continue
        listed = [path for entry in entries if (path := _photo_of(entry, by_name))]
        if entries and len(listed) >= LISTED_SHARE * len(entries):
            found.setdefault(file.parent, {})[split] = list(dict.fromkeys(listed))
    usable = {folder: splits for folder, splits in found.items() if "train" in splits and len(splits) > 1}
    if not usable:
        return None
    folder = max(usable, key=lambda name: (sum(map(len, usable[name].values())), -len(name.parts), name.as_posix()))
    splits = {split: usable[folder][split] for split in ("train", "val", "test") if split in usable[folder]}
    return SplitPlan(splits, f"as the lists in {folder if folder.parts else 'the folder'} say")


def _photo_of(entry: str, by_name: Mapping[str, PurePosixPath]) -> PurePosixPath | None:
    """Return the photo that a line of a list names: by a path below the folder or any other, or by its name."""
    first = PurePosixPath(re.split(r"\s+", entry)[0].replace("\\", "/"))
    keys = (entry, first.as_posix(), first.with_suffix("").as_posix(), first.stem)
    return next((by_name[key] for key in keys if key in by_name), None)


def divide(photos: Sequence[SplitPhoto], videos: bool = True, seed: int = 0) -> SplitPlan:
    """Divide photos into `train` and `val`, so that frames of one video stay on the same side.

    The result depends only on the names, the classes and the seed. Without `videos`, photos with running numbers do not
    stay together.
    """
    groups, kind = _groups(photos) if videos else ({photo.path.as_posix(): [photo] for photo in photos}, "")
    target = max(1, round(SHARE * len(photos)))
    everything = frozenset[str]().union(*(photo.classes for photo in photos))

    def draw(number: int) -> tuple[tuple[bool, int, int], set[PurePosixPath]]:
        chosen: list[SplitPhoto] = []
        for name in sorted(groups, key=lambda name: blake2b(f"{seed}/{number}/{name}".encode()).digest()):
            larger = abs(len(chosen) + len(groups[name]) - target)
            if len(chosen) < target and (not chosen or larger <= abs(len(chosen) - target)):
                chosen += groups[name]
        paths = {photo.path for photo in chosen}
        shown = frozenset[str]().union(*(photo.classes for photo in chosen))
        rest = frozenset[str]().union(*(photo.classes for photo in photos if photo.path not in paths))
        # The share should be about right, every class trained, and scored; then the share should be exact.
        off = abs(len(chosen) - target)
        return (off > target / 3, len(everything - rest) * 2 + len(everything - shown), off), paths

    if len(photos) < 2:
        return SplitPlan({"train": [photo.path for photo in photos]}, "there is a single photo")
    _, chosen = min((draw(number) for number in range(DRAWS)), key=lambda drawn: drawn[0])
    order = [photo.path for photo in photos]
    splits = {"train": [p for p in order if p not in chosen], "val": [p for p in order if p in chosen]}
    return SplitPlan(splits, f"{100 * len(chosen) / len(order):.0f} % of the photos were chosen for validation{kind}")


def _groups(photos: Sequence[SplitPhoto]) -> tuple[dict[str, list[SplitPhoto]], str]:
    """Return the photos that belong on the same side, and what they have in common, for people."""
    videos: dict[str, list[tuple[int, SplitPhoto]]] = {}
    for photo in photos:
        match = re.fullmatch(r"(.*?)[\W_]*(\d+)\D*", photo.path.stem)
        name, number = (match[1], int(match[2])) if match else (photo.path.stem, 0)
        videos.setdefault((photo.path.parent / name).as_posix(), []).append((number, photo))
    several = sum(len(frames) > 1 for frames in videos.values())
    length = round(FRAMES_TOGETHER * len(photos))
    longest = max(map(len, videos.values()), default=0)
    whole = len(videos) >= FEWEST_VIDEOS and longest <= max(2, LARGEST_VIDEO * len(photos))
    if several < 2 or len(videos) > 0.8 * len(photos) or (length < 2 and not whole):
        return {photo.path.as_posix(): [photo] for photo in photos}, ""
    if whole:
        return {name: [photo for _, photo in frames] for name, frames in videos.items()}, ", whole videos at a time"
    runs: dict[str, list[SplitPhoto]] = {}
    for name, frames in videos.items():
        for position, (_, photo) in enumerate(sorted(frames, key=lambda frame: (frame[0], frame[1].path))):
            runs.setdefault(f"{name}/{position // length}", []).append(photo)
    return runs, f", in runs of {length} consecutive numbers (possibly frames of a video)"
