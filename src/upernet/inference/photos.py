"""Collections of photos: the files that paths and patterns stand for, and the folder of their results."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from upernet.data.images import HEIC_SUFFIXES, is_photo
from upernet.errors import UpernetError, did_you_mean, printable
from upernet.inference.inputs import PhotoLike
from upernet.inference.parser import Parser
from upernet.inference.saving import KINDS, RESULT_FILE
from upernet.inference.streaming import Outcome, outcomes
from upernet.inference.summary import FILES, Summary
from upernet.inference.video import VIDEO_FILE
from upernet.inference.web import is_address
from upernet.taxonomy import LEVEL_KINDS

WHAT = (*KINDS, "coco")
"""What can be saved: the files of each parse, and one COCO data set of all."""
MOST_KINDS = 6
"""Number of kinds of files that `FoundPhotos.left_out` names."""


@dataclass
class FoundPhotos:
    """What files, folders, patterns and addresses stand for."""

    photos: list[Path | str]
    """Paths, and addresses as strings, in the order in which they were given, each once."""
    problems: list[tuple[str, UpernetError]]
    """What stands for no photo, each with its error."""
    unread: Counter[str]
    """Kinds of other files in the folders -> how many there are; the kind is the suffix in lower case."""

    def left_out(self) -> str | None:
        """Return a sentence about the other files in the folders; None if there are none."""
        total = sum(self.unread.values())
        if not total:
            return None
        counts = [f"{count} {kind}" for kind, count in self.unread.most_common(MOST_KINDS)]
        if rest := total - sum(count for _, count in self.unread.most_common(MOST_KINDS)):
            counts.append(f"{rest} of other kinds")
        files = "1 file that is" if total == 1 else f"{total} files that are"
        heic = "; to read HEIC, run: pip install 'upernet[heic]'" if HEIC_SUFFIXES & self.unread.keys() else ""
        return f"left out {files} not a photo ({', '.join(counts)}){heic}."


def check_what(what: Iterable[str]) -> set[str]:
    """Return what is to be saved as a set: names of `WHAT`; nothing for "none".

    Raises:
        UpernetError: A name is unknown, or "none" is not alone.
    """
    asked = set(what)
    for name in asked - {"none"}:
        if name not in WHAT:
            raise UpernetError(
                f"{name!r} cannot be saved{did_you_mean(name, WHAT)}; choose from {', '.join(WHAT)}, or none."
            )
    if "none" in asked and len(asked) > 1:
        raise UpernetError("'none' saves nothing; leave it out, or leave the others out.")
    return asked - {"none"}


def parse_photos(
    parser: Parser,
    photos: Iterable[PhotoLike],
    levels: Sequence[str],
    folder: Path | None,
    what: Collection[str] = WHAT,
    alpha: float | None = None,
) -> Generator[Outcome, None, None]:
    """Parse photos, and save each parse, and files about all of them; a photo that fails does not stop the others.

    Args:
        parser: The parser.
        photos: The photos.
        levels: The levels to parse.
        folder: Folder of the results; None: nothing is saved.
        what: What is saved, names of `WHAT`.
        alpha: How overlays are saved; see `Parse.save`.

    Yields:
        One outcome per photo, in order. The files about all photos are written at the end, also if the generator is
        closed before.

    Raises:
        UpernetError: A COCO data set is asked for without a dense level, or the files about all cannot be written.
    """
    coco = folder is not None and "coco" in what
    if coco and not any(LEVEL_KINDS[level].dense for level in levels):
        raise UpernetError(f"coco needs regions, and {', '.join(levels)} has none; add the level object.")
    summary = Summary(coco)
    kinds = set(what) - {"coco"}
    try:
        for outcome in outcomes(parser, photos, levels, out=folder if kinds else None, kinds=kinds, alpha=alpha):
            summary.add(outcome)
            yield outcome
    finally:
        if folder is not None:
            summary.write(folder)


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


def find_photos(paths: Iterable[str | os.PathLike[str]]) -> FoundPhotos:
    """Find the photos that files, folders, patterns and addresses stand for.

    * A file counts as a photo, whatever its name, and so does an address (http or https).
    * A folder stands for the photos in it and in all folders below, sorted by name, without hidden files and folders
      and without the results of earlier parses (folders with a parse.json or video.json).
    * A pattern with `*`, `?`, `[...]` or `**` stands for the files that it matches, as in a shell.

    Example:
        >>> photos = find_photos(["holiday", "scans/*.tif", "portrait.jpg"]).photos
    """
    photos: dict[str, Path | str] = {}
    problems: list[tuple[str, UpernetError]] = []
    unread: Counter[str] = Counter()
    for given in paths:
        path = os.fspath(given)
        if is_address(path):
            photos.setdefault(path, path)
            continue
        try:
            for photo in _photos_at(path, unread):
                photos.setdefault(os.path.realpath(photo), photo)
        except UpernetError as problem:
            problems.append((path, problem))
    return FoundPhotos(list(photos.values()), problems, unread)


def _photos_at(path: str, unread: Counter[str]) -> list[Path]:
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
            if is_photo(Path(name)):
                yield Path(parent, name)
            elif not name.startswith(".") and name not in FILES:
                unread[printable(Path(name).suffix.lower()) or "without a suffix"] += 1
