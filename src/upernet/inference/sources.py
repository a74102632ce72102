"""What the user names: photos, folders, patterns, lists, shards and addresses, and the photos that they stand for."""

from __future__ import annotations

import glob
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from upernet.data.images import HEIC_SUFFIXES, is_photo
from upernet.errors import UpernetError, printable
from upernet.inference import storage
from upernet.inference.manifest import MANIFEST_FILE
from upernet.inference.saving import RESULT_FILE
from upernet.inference.shards import count_photos, is_shard
from upernet.inference.summary import FILES
from upernet.inference.video import VIDEO_FILE
from upernet.inference.web import is_address

LIST_SUFFIX = ".txt"
LONGEST_LIST = 1 << 30
"""Bytes of the longest list of photos."""
MOST_KINDS = 6
"""Number of kinds of files that `left_out` names."""


@dataclass
class FoundPhotos:
    """What files, folders, patterns, lists, shards and addresses stand for."""

    photos: list[Path | str]
    """Paths, and addresses as strings, in the order in which they were given, each once. A shard (`is_shard`) stands
    for the photos in it."""
    problems: list[tuple[str, UpernetError]]
    """What stands for no photo, each with its error."""
    unread: Counter[str]
    """Kinds of other files in the folders -> how many there are; the kind is the suffix in lower case."""

    @property
    def several(self) -> bool:
        """Whether there can be more than one photo."""
        return len(self.photos) > 1 or bool(self.shards)

    @property
    def shards(self) -> list[str]:
        """The shards among the photos."""
        return [str(photo) for photo in self.photos if is_shard(str(photo))]

    def count(self) -> int | None:
        """Return the number of photos, those in shards included; None if there are shards that are not on the disk."""
        shards = self.shards
        if any(is_address(shard) for shard in shards):
            return None
        return len(self.photos) - len(shards) + sum(map(count_photos, shards))


def left_out(unread: Counter[str]) -> str | None:
    """Return a sentence about files that are not photos, from their number by kind; None if there are none."""
    total = sum(unread.values())
    if not total:
        return None
    counts = [f"{count} {kind}" for kind, count in unread.most_common(MOST_KINDS)]
    if rest := total - sum(count for _, count in unread.most_common(MOST_KINDS)):
        counts.append(f"{rest} of other kinds")
    files = "1 file that is" if total == 1 else f"{total} files that are"
    heic = "; to read HEIC, run: pip install 'upernet[heic]'" if HEIC_SUFFIXES & unread.keys() else ""
    return f"left out {files} not a photo ({', '.join(counts)}){heic}."


def find_photos(paths: Iterable[str | os.PathLike[str]]) -> FoundPhotos:
    """Find the photos that files, folders, patterns, lists, shards and addresses stand for.

    * A file counts as a photo, whatever its name, and so does a web address (http or https).
    * A folder stands for the photos in it and in all folders below, sorted by name, without hidden files and folders
      and without the results of earlier parses (folders with a parse.json).
    * A pattern with `*`, `?`, `[...]` or `**` stands for the files that it matches, as in a shell.
    * An address in an object store (`storage.STORES`) is a file, a folder or a pattern there.
    * A file or an address that ends in `.txt` is a list of all of these, one per line, relative to the list's folder.
    * A file or an address that ends in `.tar` is a shard: it stands for the photos in it (`shards.read_shard`).

    Example:
        >>> photos = find_photos(["holiday", "scans/*.tif", "portrait.jpg"]).photos
    """
    photos: dict[str, Path | str] = {}
    problems: list[tuple[str, UpernetError]] = []
    unread: Counter[str] = Counter()

    def add(path: str, place: str = "") -> None:
        try:
            for photo in _found_at(path, unread):
                if not is_list(str(photo)):
                    photos.setdefault(photo if isinstance(photo, str) else os.path.realpath(photo), photo)
                elif place:
                    raise UpernetError(f"{photo}: is a list in a list; give it by itself.")
                else:
                    for number, line in enumerate(_lines(str(photo)), 1):
                        if line:
                            add(storage.joined(str(photo), line), f"{photo}, line {number}: ")
        except UpernetError as problem:
            problems.append((path, UpernetError(f"{place}{problem}")))

    for given in paths:
        add(os.fspath(given))
    return FoundPhotos(list(photos.values()), problems, unread)


def is_list(path: str) -> bool:
    """Return whether a path or an address is that of a list of photos."""
    return (path.partition("?")[0] if is_address(path) else path).lower().endswith(LIST_SUFFIX)


def _lines(path: str) -> list[str]:
    with storage.open_stream(path) as file:
        content = file.read(LONGEST_LIST + 1)
    if len(content) > LONGEST_LIST:
        raise UpernetError(f"{path}: has more than {LONGEST_LIST >> 20} MiB, which is too much for a list; cut it up.")
    if b"\0" in content:
        raise UpernetError(f"{path}: is not a text file; give a list with one photo per line.")
    lines = [
        line.strip() for line in content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").splitlines()
    ]
    if not any(lines):
        raise UpernetError(f"{path}: the list is empty; write one photo per line.")
    return lines


def _found_at(path: str, unread: Counter[str]) -> list[Path] | list[str]:
    if is_address(path):
        storage.check_address(path)
        return _in_store(path, unread) if storage.is_stored(path) else [path]
    return _on_disk(path, unread)


def _on_disk(path: str, unread: Counter[str]) -> list[Path]:
    if os.path.isdir(path):
        photos = list(_walk(Path(path), unread))
        if not photos:
            raise UpernetError(
                f"{path}: no photos in this folder or below; give a folder with JPEG, PNG, WebP, TIFF or AVIF files."
            )
        return photos
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
    photos = files or [photo for match in matches for photo in _walk(Path(match), unread)]
    if not photos:
        raise UpernetError(f"{path}: no photos in the folders that the pattern matches; check the pattern.")
    return photos


def _walk(folder: Path, unread: Counter[str]) -> Iterator[Path]:
    """Yield the photos in a folder and below, and count the other files by kind."""

    def refuse(error: OSError) -> None:
        raise UpernetError(f"{error.filename}: the folder cannot be read ({error.strerror}); change its permissions.")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        if RESULT_FILE in files or VIDEO_FILE in files:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if _is_photo(name, unread):
                yield Path(parent, name)


def _in_store(address: str, unread: Counter[str]) -> list[str]:
    """Return the addresses of the photos that a file, a folder or a pattern in an object store stands for."""
    if (is_photo(Path(address)) or is_shard(address) or is_list(address)) and not glob.has_magic(address):
        return [address]  # without a request; with millions of addresses, each would count
    files = storage.list_stored(address)
    if files == [address] or glob.has_magic(address):
        return files
    results = {posixpath.dirname(file) for file in files if posixpath.basename(file) in (RESULT_FILE, VIDEO_FILE)}
    outside = [file for file in files if posixpath.dirname(file) not in results]
    photos = [file for file in outside if _is_photo(posixpath.basename(file), unread)]
    if not photos:
        raise UpernetError(f"{address}: no photos in this folder or below; check the address.")
    return photos


def _is_photo(name: str, unread: Counter[str]) -> bool:
    """Return whether a file in a folder is a photo; if not, and it is neither hidden nor ours, count it."""
    if is_photo(Path(name)):
        return True
    if not name.startswith(".") and name not in (*FILES, MANIFEST_FILE):
        unread[printable(Path(name).suffix.lower()) or "without a suffix"] += 1
    return False
