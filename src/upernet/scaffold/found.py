"""What was found in a folder, whatever its layout: photos, annotated levels, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from upernet.scaffold.classes import ClassPlan


@dataclass(frozen=True)
class FoundPhoto:
    """A usable photo.

    Attributes:
        path: Its path below the folder.
        entry: Its path in lists, below the folder of the source.
        split: Word of the split in the names of its folders; empty: there is none.
        size: Upright width and height in pixels.
        classes: Classes that it shows.
    """

    path: PurePosixPath
    entry: PurePosixPath
    split: str
    size: tuple[int, int]
    classes: frozenset[str]


@dataclass(frozen=True)
class FoundLevel:
    """An annotated level: its classes, and the settings of the source that describe its annotation."""

    plan: ClassPlan
    settings: Mapping[str, Any]
    parts_of: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])
    """For parts: object -> its parts."""


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        layout: The layout, for people.
        settings: Settings of the source without its levels, splits and sizes.
        levels: Level -> its annotation.
        photos: The usable photos, sorted.
        splits: Split -> word in the names of folders, if there are folders per split.
        left_out: File -> why it is left out.
        notes: Assumptions, one sentence each.
    """

    layout: str
    settings: Mapping[str, Any]
    levels: Mapping[str, FoundLevel]
    photos: Sequence[FoundPhoto]
    splits: Mapping[str, str]
    left_out: Mapping[Path, str] = field(default_factory=dict[Path, str])
    notes: Sequence[str] = ()

    @property
    def described(self) -> str:
        """The layout, with the words of all splits in the place of `{split}`."""
        words = list(self.splits.values())
        return self.layout.replace("{split}", f"{{{','.join(words)}}}" if len(words) > 1 else "".join(words))


def place_of(folder: str) -> str:
    """Return what people call a folder below the folder that they named."""
    return "the folder itself" if folder == "." else f"{folder}/"
