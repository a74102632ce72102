"""The photos that a list of files, folders and patterns stands for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from upernet.data.images import is_photo
from upernet.errors import UpernetError
from upernet.inference.parse import RESULT_FILE


def find_photos(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[tuple[str, UpernetError]]]:
    """Photos in the order of `paths`, each file once, and each of `paths` that gave none with its error.

    * A file is taken whatever its name is.
    * A folder gives the photos in it and in all folders below it, by name; hidden files and folders and the results of
      earlier parses (folders with a parse.json) are left out.
    * A pattern with `*`, `?`, `[...]` or `**` gives what it matches, as a shell would.

    Example:
        >>> photos, problems = find_photos(["holiday", "scans/*.tif", "portrait.jpg"])
    """
    photos: dict[str, Path] = {}
    problems: list[tuple[str, UpernetError]] = []
    for path in paths:
        try:
            for photo in _photos_at(os.fspath(path)):
                photos.setdefault(os.path.realpath(photo), photo)
        except UpernetError as problem:
            problems.append((os.fspath(path), problem))
    return list(photos.values()), problems


def _photos_at(path: str) -> list[Path]:
    if os.path.isdir(path):
        return _in_folder(Path(path))
    if os.path.lexists(path):
        return [Path(path)]
    if not path:
        raise UpernetError("an empty path is no photo; give a file, a folder or a pattern.")
    if not glob.has_magic(path):
        raise UpernetError(f"{path}: no such file or folder; check the path.")
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise UpernetError(f"{path}: the pattern matches no file; check it.")
    files = [Path(match) for match in matches if not os.path.isdir(match)]
    photos = files or [photo for match in matches for photo in _walk(Path(match))]
    if not photos:
        raise UpernetError(f"{path}: no photos in the folders that the pattern matches; check it.")
    return photos


def _in_folder(folder: Path) -> list[Path]:
    photos = list(_walk(folder))
    if not photos:
        raise UpernetError(f"{folder}: no photos in this folder or below it (JPEG, PNG, WebP, TIFF, AVIF, ...).")
    return photos


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UpernetError(f"{error.filename}: the folder cannot be read ({error.strerror}); change its permissions.")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        if RESULT_FILE in files:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if is_photo(Path(name)))
