"""Collections of photos: the files that paths and patterns stand for, and parsing them one after another."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from upernet.data.images import is_photo
from upernet.errors import UpernetError
from upernet.inference.parser import Parser
from upernet.inference.saving import RESULT_FILE


@dataclass(frozen=True)
class ParsedPhoto:
    """The result of parsing one photo of a collection."""

    path: Path
    result: dict[str, Any] | UpernetError
    """`Parse.to_dict()` and the folder of the saved results (or None) as `folder`; or the error."""


def parse_photos(
    parser: Parser, photos: Iterable[Path], levels: Iterable[str] | None = None, folder: Path | None = None
) -> Iterator[ParsedPhoto]:
    """Parse photos one after another; a photo that fails does not stop the others.

    Args:
        parser: Parser of every photo.
        photos: Image files.
        levels: Levels to parse; None: all levels of the model.
        folder: Folder in which each parse is saved (see `Parse.save`); None: nothing is saved.

    Yields:
        One result per photo, in order.
    """
    levels = None if levels is None else list(levels)
    for photo in photos:
        try:
            parse = parser(photo, levels)
            saved = parse.save(folder) if folder is not None else None
        except UpernetError as error:
            yield ParsedPhoto(photo, error)
        else:
            yield ParsedPhoto(photo, parse.to_dict() | {"folder": None if saved is None else str(saved)})


def make_output_folder(folder: Path) -> None:
    """Create the folder and check that it can be written, so that a mistake is reported before any photo is parsed.

    Raises:
        UpernetError: The folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UpernetError(
            f"{folder}: cannot be written ({error.strerror}); choose a folder you may write to with --out."
        ) from None


def find_photos(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[tuple[str, UpernetError]]]:
    """Find the photos that files, folders and patterns stand for.

    * A file counts as a photo, whatever its name.
    * A folder stands for the photos in it and in all folders below, sorted by name, without hidden files and folders
      and without the results of earlier parses (folders with a parse.json).
    * A pattern with `*`, `?`, `[...]` or `**` stands for the files that it matches, as in a shell.

    Returns:
        The photos in the order of `paths`, each file once; and the paths without photos, each with its error.

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
        return _photos_in(Path(path))
    if os.path.lexists(path):
        return [Path(path)]
    if not path:
        raise UpernetError("the path is empty; give a file, a folder or a pattern.")
    if not glob.has_magic(path):
        raise UpernetError(f"{path}: no such file or folder; check the path.")
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise UpernetError(f"{path}: the pattern matches no file; check the pattern.")
    files = [Path(match) for match in matches if not os.path.isdir(match)]
    photos = files or [photo for match in matches for photo in _walk(Path(match))]
    if not photos:
        raise UpernetError(f"{path}: no photos in the folders that the pattern matches; check the pattern.")
    return photos


def _photos_in(folder: Path) -> list[Path]:
    photos = list(_walk(folder))
    if not photos:
        raise UpernetError(
            f"{folder}: no photos in this folder or below; give a folder with JPEG, PNG, WebP, TIFF or AVIF files."
        )
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
