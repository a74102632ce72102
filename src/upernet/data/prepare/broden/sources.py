"""What the data sets of Broden+ have in common: items to convert, and readers that find and read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from upernet.errors import UpernetError, shorten
from upernet.files import read_limited

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
VAL_SHARE = 0.1
"""Share of the photos that are validated on, where a data set has no split of its own. It is the published share."""
MAX_TEXT = 2**28
"""Bytes of the largest text file of a data set."""


@dataclass(frozen=True)
class Item:
    """A photo of a data set, and where its annotations are."""

    dataset: str
    name: str
    """Name of the photo without suffix, unique in the data set."""
    split: Split
    photo: Path
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Annotations, by what they hold."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Level -> raw label of the whole photo."""
    row: int = -1
    """Its number in the released lists of records (`file_index`); -1: none."""


FlawKind = Literal["incomplete", "damaged", "unannotated", "unlisted", "unknown-label"]


@dataclass(frozen=True)
class Flaw:
    """A photo, or a whole data set, that is not as it should be."""

    dataset: str
    name: str
    """Name of the photo; empty: the data set as a whole."""
    kind: FlawKind
    text: str


class Reader(ABC):
    """Finds the photos of one data set and reads their raw labels."""

    dataset: str
    """Name of the data set in the index and in assignments."""
    reduces: bool = False
    """Whether photos are reduced to `Options.short_side`, as in the published code."""
    scaled: bool = False
    """Whether label maps are of another size than their photos."""

    @abstractmethod
    def find(self) -> tuple[list[Item], list[Flaw]]:
        """List the photos without decoding any, sorted by name, and what is missing.

        Raises:
            UpernetError: The folder does not hold the data set.
        """

    def read(self, item: Item) -> dict[str, np.ndarray]:
        """Return the raw labels of a photo: level -> int32 H x W.

        Raises:
            UpernetError: An annotation is damaged.
        """
        del item
        return {}

    def keys(self, level: str) -> Mapping[int, str] | None:
        """Return the key of each raw label in assignments; None: the number itself."""
        del level
        return None

    def titles(self, item: Item) -> Mapping[int, str]:
        """Return the names of raw labels whose keys are numbers, for people."""
        del item
        return {}

    def title(self, item: Item, level: str, number: int) -> str:
        """Return the name of a raw label of a photo, for people."""
        keys = self.keys(level)
        return (self.titles(item) if keys is None else keys).get(number, str(number))


def split_by_name(name: str) -> Split:
    """Return the split of a photo whose data set has none: a hash of its name decides."""
    digest = blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") < VAL_SHARE * 2**64 else "train"


def read_text(path: Path) -> str:
    """Return the content of a text file of a data set. Raises UpernetError if it cannot be read."""
    try:
        return read_limited(path, MAX_TEXT).decode("utf-8-sig", "replace")
    except OSError as error:
        raise UpernetError(f"{path}: cannot be read ({error.strerror or error}); check the file.") from None


def numbered_names(path: Path, pairs: Iterator[tuple[int, str]]) -> dict[int, str]:
    """Return number -> name as a file lists them. Raises UpernetError if it lists none, or a number is too large."""
    names: dict[int, str] = {}
    for number, name in pairs:
        if not 0 <= number < 2**16:
            raise UpernetError(f"{path}: {shorten(number)} is not the number of a label; download the file again.")
        names[number] = name
    if not names:
        raise UpernetError(f"{path}: lists no labels; download the file again.")
    return names


def require_folder(option: str, folder: Path) -> None:
    """Raise UpernetError unless the folder of an option is there."""
    if not folder.is_dir():
        raise UpernetError(f"{folder}: no such folder; give {option} the folder that the archive was unpacked to.")


def find_one(folder: Path, names: Sequence[str], depth: int = 3) -> Path | None:
    """Return `folder` or the first file or folder below it, at most `depth` folders deep, that has one of the names."""
    if folder.absolute().name in names:
        return folder
    level = [folder]
    for _ in range(depth + 1):
        for place in level:
            for name in names:
                if (place / name).exists():
                    return place / name
        level = [child for place in level for child in _folders(place)]
    return None


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(child for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))[:1000]
    except OSError:
        return []


def as_labels(values: Any) -> np.ndarray:
    """Return whole numbers, H x W, as int32. Raises ValueError for anything else."""
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "uifb" or not array.size:
        raise ValueError(f"it is not a label map ({array.dtype}, {array.ndim} dimensions)")
    with np.errstate(invalid="ignore"):  # what is no number, or beyond int32, is not equal to its label
        labels = array.astype(np.int32)
    if array.dtype.kind == "f" and not np.array_equal(labels, array):
        raise ValueError("it holds fractions")
    return labels
