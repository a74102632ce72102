"""A zip archive or an unpacked folder as a list of files. An archive is hostile until it has been checked."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from upernet.errors import UpernetError, plain, shorten
from upernet.files import refuse_special_file

MAX_FILE = 64 * 2**20
"""Bytes of the largest file that is read; photos and label maps are far smaller."""
MAX_TOTAL = 64 * 2**30
"""Bytes of all files together that are read from one archive."""
MAX_RATIO = 100
"""How many times its compressed size a file of more than 1 MiB may have: photos hardly shrink in a zip."""


@dataclass(frozen=True)
class Archive:
    """Files by their path inside the archive, with `/` between folders."""

    path: Path
    sizes: dict[str, int]
    """Path -> bytes."""
    packed_sizes: dict[str, int]
    """Path -> bytes in the archive."""
    open: Callable[[str], IO[bytes]]

    def check(self, names: Sequence[str]) -> None:
        """Refuse files that no photos or label maps would be, before any is read.

        Raises:
            UpernetError: one is too large, would grow too much, or all together are too large.
        """
        for name in names:
            size = self.sizes[name]
            if size > MAX_FILE or size > max(2**20, MAX_RATIO * self.packed_sizes[name]):
                raise UpernetError(
                    f"{self.path}: {plain(name, 200)} would unpack to {size:,} bytes, which no photo or label map "
                    "does; download the archive again from its publisher."
                )
        total = sum(self.sizes[name] for name in names)
        if total > MAX_TOTAL:
            raise UpernetError(
                f"{self.path}: its photos and label maps would unpack to {total:,} bytes, more than any known release; "
                "download the archive again from its publisher."
            )

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises UpernetError if it is damaged or cannot be read."""
        size, where = self.sizes[name], f"{self.path}: {plain(name, 200)}"
        try:
            with self.open(name) as file:
                content = file.read(size + 1)  # no more than was said, whatever the compressed stream would give
        except OSError as error:
            raise UpernetError(f"{where} cannot be read ({error.strerror or _reason(error)}).") from error
        except Exception as error:  # zipfile raises many types for damaged files
            raise UpernetError(f"{where} is damaged ({_reason(error)}); download the archive again.") from error
        if len(content) != size:
            raise UpernetError(f"{where} is cut off; download or unpack the archive again.")
        return content


@contextmanager
def open_archive(path: Path) -> Generator[Archive, None, None]:
    """Open a zip archive, or the folder that one was unpacked to.

    Raises:
        UpernetError: There is nothing, it is neither, or the archive is damaged or not to be trusted.
    """
    if os.path.isdir(path):
        sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}
        yield Archive(path, sizes, sizes, lambda name: (path / name).open("rb"))
        return
    refuse_special_file(path)
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise UpernetError(f"{path}: no such file or folder; give the archive that you downloaded.") from None
    except OSError as error:
        raise UpernetError(f"{path}: cannot be read ({error.strerror or _reason(error)}); check the file.") from error
    except Exception as error:  # zipfile raises many types for damaged files
        raise UpernetError(
            f"{path}: is not a zip archive, or not all of one ({_reason(error)}); download it again, and see that it "
            "is not a web page that was saved instead."
        ) from None
    with archive:
        members = [member for member in archive.infolist() if not member.filename.endswith("/")]
        _check_members(path, members)
        sizes = {member.filename: member.file_size for member in members}
        yield Archive(path, sizes, {member.filename: member.compress_size for member in members}, archive.open)


def _reason(error: Exception) -> str:
    return plain(str(error) or type(error).__name__, 150)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    seen = Counter(member.filename for member in members)
    for member in members:
        problem = _problem(member) or ("is in it twice" if seen[member.filename] > 1 else None)
        if problem:
            raise UpernetError(
                f"{path}: nothing was unpacked, for {shorten(member.filename)} {problem}; "
                "download the archive again from its publisher."
            )


def _problem(member: zipfile.ZipInfo) -> str | None:
    name = member.filename
    if not name:
        return "has no name"
    if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name) or "\\" in name:
        return "leads out of the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an unusual way"
    return None
