"""Symbolic links in data sets, which may come from archives that nobody has looked into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from upernet.errors import UpernetError


def refuse_links(where: str, files: Iterable[Path], roots: Sequence[Path]) -> None:
    """Refuse files that are outside of all `roots` once symbolic links are resolved; the roots may be links themselves.

    Args:
        where: Key of the recipe that describes the source, for errors.
        files: Photos and masks.
        roots: The folders that may hold them.

    Raises:
        UpernetError: A file is outside.
    """
    for file in files_outside(files, roots):
        raise UpernetError(
            f"{file}: leads through a symbolic link to a file outside of the data set; copy the file there, or set "
            f"{where}.follow_links: true if you trust the data set."
        )


def files_outside(files: Iterable[Path], roots: Sequence[Path]) -> Iterator[Path]:
    """Yield the files that are outside of all `roots` once symbolic links are resolved."""
    real_roots = [os.path.realpath(root) for root in roots]
    real_folders: dict[Path, str] = {}
    for file in files:
        if file.parent not in real_folders:
            real_folders[file.parent] = os.path.realpath(file.parent)
        real = os.path.join(real_folders[file.parent], file.name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not _is_inside(real, real_roots):
            yield file


def files_below(folder: Path, roots: Sequence[Path] | None) -> Iterator[Path]:
    """Yield the files in `folder` at any depth. Hidden files and folders are left out.

    Of a folder outside of all `roots`, to which a symbolic link leads, only the files right in it are listed: enough
    for `refuse_links` to name one, without reading half the disk. None: there are no such limits.
    """
    real_roots = None if roots is None else [os.path.realpath(root) for root in roots]
    visited: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a loop of links
            folders.clear()
            continue
        visited.add(real)
        inside = real_roots is None or _is_inside(real, real_roots)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if inside else []
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _is_inside(real: str, real_roots: Sequence[str]) -> bool:
    return any(os.path.commonpath([root, real]) == root for root in real_roots)
