"""Words in the names of folders and files that tell photos from masks, splits from one another, and levels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from upernet.taxonomy.levels import LEVELS


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


PHOTO_WORDS = _set(
    "image images img imgs photo photos picture pictures pic pics jpegimages leftimg8bit rgb original originals orig"
    " input inputs frame frames raw jpg jpeg jpgs"
)
MASK_WORDS = _set(
    "mask masks annotation annotations annotated annot annots ann anns label labels labeled labelled gt gts seg segs"
    " groundtruth segm segmentation segmentations segmask segmasks segmentationclass segmentationclassraw semantic"
    " segmentationclasspng segmentationclassaug gtfine gtcoarse labelid labelids labeltrainids labelmap labelmaps"
    " target targets trimap trimaps color colors rgblabels"
)
MASK_ENDS = frozenset(("l", "m", "p"))
"""Further ends of the names of masks, as in CamVid's `0001TP_006690_L.png`; too short to mean anything for a folder."""
OTHER_WORDS = _set(
    "instance instances instanceid instanceids instancetrainids segmentationobject segmentationobjectpng panoptic"
    " depth disparity visualization visualizations segmentationclassvisualization overlay overlays preview previews"
    " edges boundaries boxes"
)
"""Words for images that are neither photos nor masks of classes."""
SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
LEVEL_WORDS = {word: level for level in LEVELS for word in (level, f"{level}s")}


def split_of(word: str) -> str | None:
    """Return the split that a word such as `train`, `valid` or `val2017` stands for; None if it is no such word."""
    return SPLITS.get(word.lower().rstrip("0123456789"))


@dataclass(frozen=True)
class Meaning:
    """What the name of a folder says about the files in it.

    Attributes:
        pattern: The name, with `{split}` in the place of a split's word.
        role: `photo`, `mask` or `other`; None: it does not say.
        split: Word of the split, such as `valid`; None: it does not say.
        level: Level of perception; None: it does not say.
    """

    pattern: str
    role: str | None = None
    split: str | None = None
    level: str | None = None


@cache
def meaning_of(name: str) -> Meaning | None:
    """Return the meaning of the name of a folder; None if one of its words is not known, or it is only a filler."""
    role = split = level = None
    pattern = re.sub(r"(?i)ground[\W_]?truth", "groundtruth", name)
    written = pattern
    for word in _words(pattern):
        lower = word.lower()
        if split_of(word):
            split = word
        elif lower in LEVEL_WORDS:
            level = LEVEL_WORDS[lower]
        elif lower in OTHER_WORDS:
            role = "other"
        elif lower in MASK_WORDS:
            role = role or "mask"
        elif lower in PHOTO_WORDS:
            role = role or "photo"
        else:
            return None
    if split is not None:
        written = name.replace(split, "{split}", 1)
    return Meaning(written if split else name, role, split, level)


def split_in(name: str) -> str | None:
    """Return the word of a name that stands for a split; None if it has none."""
    return next((word for word in _words(name) if split_of(word)), None)


def is_mask_end(end: str) -> bool:
    """Return whether a part of a name, such as `_mask` or `_gtFine_labelIds`, says that a file is a mask."""
    words = [word.lower() for word in _words(end)]
    return bool(words) and all(word in MASK_WORDS or word in MASK_ENDS for word in words)


def is_other_end(end: str) -> bool:
    """Return whether a part of a name says that a file is neither a photo nor a mask of classes."""
    return any(word.lower() in OTHER_WORDS for word in _words(end))


def level_in(name: str) -> str | None:
    """Return the level that a name has a word of; None if it has none."""
    return next((LEVEL_WORDS[word.lower()] for word in _words(name) if word.lower() in LEVEL_WORDS), None)


@cache
def _words(name: str) -> tuple[str, ...]:
    """Split `train_masks`, `masks-object` and `trainannot` into words."""
    words: list[str] = []
    for word in re.split(r"[\W_]+", name):
        known = [split for split in SPLITS if word.lower().startswith(split) and len(word) > len(split)]
        longest = max(known, key=len, default="")
        rest = word[len(longest) :]
        if longest and rest.lower() in MASK_WORDS | PHOTO_WORDS:
            words += [word[: len(longest)], rest]
        elif word:
            words.append(word)
    return tuple(words)
