"""The files of a folder, as far as they can be data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from upernet.data.images import is_photo
from upernet.data.sources.links import files_below, files_outside
from upernet.errors import UpernetError

TEXT_SUFFIXES = frozenset((".txt", ".csv", ".json", ".xml", ".names"))

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the number of files done and of files in all."""


@dataclass(frozen=True)
class Listing:
    """The files of a folder, by their paths below it, sorted.

    Attributes:
        root: The folder.
        images: Photos and masks.
        texts: Files that may hold annotations, lists or names of classes.
        links: Files left out because a symbolic link leads to them out of the folder.
        follow_links: Whether such files are not left out.
    """

    root: Path
    images: tuple[PurePosixPath, ...]
    texts: tuple[PurePosixPath, ...]
    links: int
    follow_links: bool = False


def list_files(root: Path, follow_links: bool = False) -> Listing:
    """List the files of a folder at any depth.

    Args:
        root: The folder.
        follow_links: Whether to follow symbolic links out of it.

    Raises:
        UpernetError: There is no such folder, or it holds no image.
    """
    if not root.is_dir():
        problem = "is a file" if root.exists() else "no such folder"
        raise UpernetError(f"{root}: {problem}; give the folder with your photos and masks.")
    files = list(files_below(root, None if follow_links else [root]))
    outside = set[Path]() if follow_links else set(files_outside(files, [root]))
    own = sorted(PurePosixPath(path.relative_to(root).as_posix()) for path in files if path not in outside)
    images = tuple(path for path in own if is_photo(Path(path)))
    texts = tuple(path for path in own if path.suffix.lower() in TEXT_SUFFIXES)
    if not images:
        if outside:
            raise UpernetError(
                f"{root}: holds only symbolic links to files outside of it ({len(outside)}); if they are your own, "
                "give --follow-links."
            )
        raise UpernetError(f"{root}: holds no photos; give the folder with your photos and masks.")
    return Listing(root, images, texts, len(outside), follow_links)
