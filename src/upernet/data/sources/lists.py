"""Lists of the photos of a split: text files with one photo per line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from upernet.data.sources.annotation import Photo
from upernet.errors import UpernetError, shorten
from upernet.files import read_limited

MAX_BYTES = 2**28
"""Bytes of the largest list: several million photos."""


def read_list(file: Path) -> list[str]:
    """Return the entries of a list: its lines without empty ones and comments (`#`).

    Raises:
        UpernetError: The file is missing or not UTF-8 text.
    """
    try:
        lines = read_limited(file, MAX_BYTES).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UpernetError(f"{file}: no such file; correct `lists` in the recipe, or write the list there.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UpernetError(f"{file}: cannot be read as UTF-8 text ({error}); check the file.") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def select_listed(file: Path, photos: Sequence[Photo], folders: Sequence[Path]) -> tuple[list[Photo], list[str]]:
    """Return the photos that a list names, in their own order, and what is wrong with the list.

    An entry is the path of a photo below one of `folders`, with or without its suffix, or the photo's name.

    Raises:
        UpernetError: The list cannot be read.
    """
    entries = read_list(file)
    wanted = set(entries)
    found: set[str] = set()
    chosen: list[Photo] = []
    for photo in photos:
        keys = {photo.path.name, photo.path.stem}
        for folder in folders:
            if photo.path.is_relative_to(folder):
                own = photo.path.relative_to(folder)
                keys |= {own.as_posix(), own.with_suffix("").as_posix()}
        if keys & wanted:
            chosen.append(photo)
            found |= keys
    missing = [entry for entry in entries if entry not in found]
    if not missing:
        return chosen, []
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    places = " and ".join(map(str, folders))
    return chosen, [
        f"{file}: lists {shorten(missing[0], 200)}{more}, but {places} has no such photo; correct the list."
    ]
