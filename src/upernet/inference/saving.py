"""Saving of parses: a folder for each photo, which appears, or changes, as a whole.

Everything is written to a hidden folder beside its place first. A process that is killed leaves nothing but such a
folder, which the next one removes.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from upernet.errors import UpernetError, printable
from upernet.inference import storage, web
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.web import is_address
from upernet.taxonomy import LEVELS

if TYPE_CHECKING:
    from upernet.inference.parse import Parse

Kind = Literal["sheet", "overlay", "labels", "confidence", "json"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What can be saved of a parse; parse.json always is, because a later run knows the folder of a photo by it."""
RESULT_FILE = "parse.json"
SHEET_FILE = "sheet.jpg"
OWN_FILES = frozenset(f"{level}{end}.png" for level in LEVELS for end in ("", "_confidence", "_overlay")) | {
    SHEET_FILE,
    RESULT_FILE,
}
"""The files that the folder of a parse can have."""
UNSURE_COLOR = (160, 160, 160)
"""Color of unsure pixels in the label PNGs: lighter than that of the background."""
ABANDONED = 24 * 3600
"""Age in seconds from which on the hidden folder of a process that cannot be looked up counts as left behind."""
LONGEST_STEM = 200
"""Bytes of the name of the folder of a photo on the web; file systems allow 255, and numbers may follow."""
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_START = time.time()

WRITERS = 2
"""Files of a parse that are written at the same time."""

REMOVALS = 1000
"""How often the removal of a hidden folder is tried."""

Writer = Callable[[Path], None]


def save(
    parse: Parse,
    directory: Path,
    name: str | None,
    kinds: Collection[str],
    alpha: float | None = None,
    content: Mapping[str, Any] | None = None,
) -> Path:
    """Write a parse to a folder of its own, as `Parse.save` says, and return the folder.

    Args:
        parse: The parse.
        directory: As `Parse.save` takes it, like the next ones.
        name: See there.
        kinds: See there.
        alpha: See there.
        content: What `parse.to_dict` returns, if the caller has it already.
    """
    refuse_address(directory)
    files = _files(parse, check_kinds(kinds), alpha)
    place = directory / (name or stem_of(parse.path or ""))
    with hidden_folder(directory) as hidden:
        with ThreadPoolExecutor(WRITERS) as pool:  # images are compressed without the interpreter's lock
            for done in [pool.submit(_write, hidden / file, write, place / file) for file, write in files.items()]:
                done.result()
        return _put(parse, content or parse.to_dict(), hidden, place, claim=name is None)


def refuse_address(folder: Path) -> None:
    """Refuse the address of an object store or on the web, which would become a folder `s3:` on the disk.

    Raises:
        UpernetError: `folder` is one.
    """
    scheme, colon, rest = folder.as_posix().partition(":/")
    if colon and scheme.lower() in (*web.SCHEMES, *storage.STORES):
        address = f"{scheme}://{rest.lstrip('/')}"
        raise UpernetError(
            f"{address}: results are saved on the disk only; choose a folder, and copy it there afterwards."
        )


@contextmanager
def hidden_folder(directory: Path) -> Generator[Path, None, None]:
    """Create a hidden folder in `directory`, which is created too, and remove it at the end, if it is still there.

    Raises:
        UpernetError: The folder cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        hidden = directory / f".upernet-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        hidden.mkdir()
    except OSError as error:
        raise UpernetError(f"{directory}: cannot be written ({error.strerror}); choose another folder.") from None
    try:
        yield hidden
    finally:
        for _ in range(REMOVALS):  # Ctrl-C may leave a thread behind that still writes a file
            shutil.rmtree(hidden, ignore_errors=True)
            if not hidden.exists():
                break


def remove_leftovers(directory: Path) -> None:
    """Remove the hidden folders that killed processes have left in `directory`."""
    for folder in directory.glob(".upernet-*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically, without a trace of it if the process is killed.

    Raises:
        UpernetError: The file cannot be written.
    """
    with hidden_folder(path.parent) as hidden:
        _write(hidden / path.name, lambda file: _write_text(file, text), path)
        try:
            os.replace(hidden / path.name, path)
        except OSError as error:
            raise UpernetError(f"{path}: cannot be written ({error.strerror}); choose another folder.") from None


def unsure_value(label_map: LabelMap) -> int:
    """Return the value of unsure pixels in the label PNG of a level."""
    return 255 if len(label_map.names) <= 255 else 65535


def check_kinds(kinds: Collection[str]) -> set[str]:
    """Return `kinds`, or the only one, as a set. Raises UpernetError for a name that is none of `KINDS`."""
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise UpernetError(f"{kind!r} cannot be saved; choose from {', '.join(KINDS)}.")
    return kinds


def _files(parse: Parse, kinds: set[str], alpha: float | None) -> dict[str, Writer]:
    """Return the files of a parse without parse.json: name -> function that writes the file."""
    files: dict[str, Writer] = {}
    for level, label_map in parse.maps.items():
        if "labels" in kinds:
            files[f"{level}.png"] = lambda path, shown=label_map: _write_png(path, label_image(shown))
        if "confidence" in kinds:
            files[f"{level}_confidence.png"] = lambda path, shown=label_map: _write_png(path, confidence_image(shown))
        if "overlay" in kinds:
            files[f"{level}_overlay.png"] = lambda path, name=level: _write_png(path, parse.overlay(name, alpha))
    if "sheet" in kinds:
        files[SHEET_FILE] = lambda path: parse.sheet().save(path, quality=92, subsampling=0)
    return files


def _put(parse: Parse, content: Mapping[str, Any], hidden: Path, place: Path, claim: bool) -> Path:
    """Move the hidden folder to `place`; with `claim`, to the first free one, or the photo's, of place, place-2, ..."""
    for number in itertools.count(1):
        folder = place if number == 1 else place.with_name(f"{place.name}-{number}")
        path = relative(parse.path, folder) if parse.path else None
        if not (_is_free(folder) or _is_own(folder, path, claim)):
            continue
        text = json.dumps({**content, "path": path}, indent=2, allow_nan=False) + "\n"
        _write(hidden / RESULT_FILE, lambda file, text=text: _write_text(file, text), folder / RESULT_FILE)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            hidden.rename(folder)
            return folder
        except OSError as error:
            if _is_free(folder):
                raise _failure(folder, error) from error
        if _is_own(folder, path, claim):  # otherwise, another process has taken it in the meantime
            _replace_files(hidden, folder)
            return folder
    raise AssertionError


def may_be_written(folder: Path, photo: str) -> bool:
    """Return whether the results of a photo can go to a folder: there is none, it is empty, or it has older ones."""
    return _is_free(folder) or (folder.is_dir() and _path_in(folder) == relative(photo, folder))


def _is_free(folder: Path) -> bool:
    """Return whether there is nothing, or an empty folder."""
    return not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))


def _is_own(folder: Path, path: str | None, claim: bool) -> bool:
    """Return whether a folder may be overwritten: the caller has named it, or it holds a parse of the photo `path`."""
    if not claim and not folder.is_dir():
        raise UpernetError(f"{folder}: is a file, not a folder; choose another name.")
    return not claim or (path is not None and _path_in(folder) == path)


def _replace_files(hidden: Path, folder: Path) -> None:
    """Move all files of the hidden folder to `folder`, and remove what an earlier parse had beyond them."""
    new = {file.name for file in hidden.iterdir()}
    stale = OWN_FILES - new
    try:
        for name in sorted(new, key=lambda name: name == RESULT_FILE):  # parse.json last
            if name == RESULT_FILE:
                for other in stale:
                    (folder / other).unlink(missing_ok=True)
            os.replace(hidden / name, folder / name)
    except OSError as error:
        raise UpernetError(f"{folder}: cannot be written ({error.strerror}); choose another folder.") from error


def _write(path: Path, write: Writer, place: Path) -> None:
    """Write a file and flush it to the disk; errors name its final place."""
    try:
        write(path)
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise _failure(place, error) from error


def _failure(place: Path, error: OSError) -> UpernetError:
    return UpernetError(f"{place}: writing failed ({error.strerror or error}); nothing was changed.")


def _write_png(path: Path, image: Image.Image) -> None:
    # Twice to four times as fast as the default strategy; label maps get smaller, overlays 20 % larger.
    image.save(path, compress_type=zlib.Z_RLE)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def label_image(label_map: LabelMap) -> Image.Image:
    """Return a label map as an image whose pixel values are the labels, and `unsure_value` where unsure.

    With up to 255 classes, the image has 8 bits and a palette (mode P) with the colors of the classes, so that viewers
    show them while `numpy.asarray` returns the labels. With more, it has 16 bits (mode I;16), which no palette can
    color: viewers show it black or gray.
    """
    unsure = unsure_value(label_map)
    labels = np.where(label_map.labels == UNSURE, unsure, label_map.labels)
    if unsure != 255:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    colors = bytes(channel for color in label_map.colors for channel in color)
    image.putpalette(colors.ljust(3 * unsure, b"\0") + bytes(UNSURE_COLOR))
    return image


def confidence_image(label_map: LabelMap) -> Image.Image:
    """Return the confidence of a label map as 8-bit gray, 255 = 1."""
    return Image.fromarray(np.rint(255 * label_map.confidence).astype(np.uint8))


def stem_of(path: str) -> str:
    """Return the name of a photo's folder: that of the photo without its suffix; the stem of "..jpg" is "photo".

    The name of a file on the web can be longer than file systems allow, and is cut.
    """
    if not is_address(path):
        return Path(path).stem.strip(".") or "photo"
    stem = Path(printable(unquote(urlsplit(path).path).replace("\\", "/"))).stem
    return stem.encode(errors="ignore")[:LONGEST_STEM].decode(errors="ignore").strip(".") or "photo"


def _path_in(folder: Path) -> str | None:
    """Return the path in the parse.json of a folder; None if there is no such file or path."""
    try:
        content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", content).get("path") if isinstance(content, dict) else None


def relative(path: str, folder: Path) -> str:
    """Return `path` relative to `folder`, with forward slashes; it does not depend on the current folder.

    Web addresses stay as they are.
    """
    if is_address(path):
        return path
    path, start = os.path.realpath(path), os.path.realpath(folder)
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # Windows: another drive
        return Path(path).as_posix()


def _is_abandoned(folder: Path) -> bool:
    """Return whether the process that made a hidden folder is gone."""
    match = re.fullmatch(r"\.upernet-([0-9a-f]{8})-(\d+)-\w+", folder.name)
    try:
        changed = folder.stat().st_mtime
    except OSError:
        return False
    if match is None:
        return False
    if time.time() - changed > ABANDONED:
        return True
    if match[1] != _HOST or os.name == "nt":  # Windows has no signal 0
        return False
    process = int(match[2])
    if process == os.getpid():  # in a container, every process can have the same number
        return changed < _START
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
