"""Shards: uncompressed .tar files of photos, read from the beginning to the end, as WebDataset lays them out.

The key of a photo is its path in the shard up to the first dot of the file's name, so files that belong together share
it: `a/0001.jpg` and `a/0001.seg.png` have the key `a/0001`, and the first is the photo.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from upernet.data.images import HEIC_SUFFIXES, SUFFIXES, reads_heic
from upernet.errors import UpernetError, printable
from upernet.inference import web
from upernet.inference.inputs import NamedBytes
from upernet.inference.storage import open_stream
from upernet.inference.web import is_address

SHARD_SUFFIX = ".tar"
LONGEST_HEADER = 1 << 20
"""Bytes of the largest extended header: a name of more than a few kilobytes is no name."""
LONGEST_KEY = 1000
_EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")


@dataclass(frozen=True)
class Member:
    """A photo in a shard."""

    key: str
    """Its path in the shard without the extension; if there is no problem, no part is empty, `.` or `..`."""
    name: str
    """Its path in the shard; "" for a problem of the whole shard."""
    content: NamedBytes | UpernetError | None
    """Its bytes, with a `name` that errors give; why it cannot be read; None if it was not to be read."""


def is_shard(path: str) -> bool:
    """Return whether a path or an address is that of a shard."""
    return (path.partition("?")[0] if is_address(path) else path).lower().endswith(SHARD_SUFFIX)


def read_shard(
    shard: str, wanted: Callable[[str], bool] = lambda key: True, left_out: Counter[str] | None = None
) -> Iterator[Member]:
    """Yield the photos of a shard in its order; memory holds one at a time.

    A photo cannot be read if it has more than `web.LARGEST` bytes, a name that leads out of the shard, or the key of an
    earlier one. If the shard is cut off or damaged, the last one that is yielded says so.

    Args:
        shard: Path or address.
        wanted: Whether the photo with a key is read; the content of others is None.
        left_out: Counts the other files by kind.
    """
    keys: set[str] = set()
    try:
        with open_stream(shard) as file, _opened(shard, file, "r|") as archive:
            for entry in _entries(archive):
                name = entry.name
                key, suffix = split_name(name)
                if not _is_photo(suffix):
                    if left_out is not None and not posixpath.basename(name).startswith("."):
                        left_out[printable(suffix) or "without a suffix"] += 1
                    continue
                if problem := _problem(entry, key, keys):
                    yield Member(key, name, UpernetError(f"{shard}/{name}: {problem}."))
                    continue
                keys.add(key)
                content = None
                if wanted(key) and (member := archive.extractfile(entry)) is not None:
                    content = NamedBytes(member.read(), f"{shard}/{name}")
                yield Member(key, name, content)
    except UpernetError as error:
        yield Member("", "", error)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        problem = f"{shard}: is cut off or damaged ({printable(error).rstrip('.')}); get it again."
        yield Member("", "", UpernetError(problem))


def count_photos(shard: str) -> int:
    """Return the number of photos of a shard on the disk, from the headers alone; those before a damage, if any."""
    count = 0
    try:
        with open(shard, "rb") as file, _opened(shard, file, "r:") as archive:
            count = sum(_is_photo(split_name(entry.name)[1]) for entry in _entries(archive))
    except (UpernetError, tarfile.TarError, OSError, EOFError, ValueError):
        pass
    return count


def split_name(name: str) -> tuple[str, str]:
    """Return the key of a file in a shard, and its suffix in lower case: what follows the first dot of its name."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return f"{folder}{slash}{stem}".removeprefix("./"), (dot + suffix).lower()


def _is_photo(suffix: str) -> bool:
    return suffix in SUFFIXES or (suffix in HEIC_SUFFIXES and reads_heic())


def _problem(entry: tarfile.TarInfo, key: str, keys: set[str]) -> str | None:
    """Return why a photo is refused, and what to do; None: it is not."""
    parts = key.split("/")
    hostile = any(part in ("", ".", "..") or re.search(r"[\\\0]|^[A-Za-z]:", part) for part in parts)
    if hostile or len(key) > LONGEST_KEY or any(len(part.encode(errors="replace")) > 200 for part in parts):
        return "the name leads out of the shard or is too long; pack it under another name"
    if entry.size > web.LARGEST:
        return f"has more than {web.LARGEST >> 20} MiB; reduce it first"
    if key in keys:
        return f"an earlier photo of the shard has the same key {key!r}; rename one of them"
    return None


def _opened(shard: str, file: BinaryIO, mode: str) -> tarfile.TarFile:
    class Header(tarfile.TarInfo):
        """A header that is refused where Python would end the archive, or read without a limit."""

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
            try:
                header = super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError:
                if not any(buf) and len(buf) == tarfile.BLOCKSIZE:
                    raise  # the end mark
                what = "ends without its end mark" if not buf else "is cut off or damaged"
                raise UpernetError(f"{shard}: {what}; get it again.") from None
            if header.size < 0:
                raise UpernetError(f"{shard}: is damaged (a member of {header.size:,} bytes); get it again.")
            if header.type in _EXTENDED and header.size > LONGEST_HEADER:
                raise UpernetError(f"{shard}: a name in it has {header.size:,} bytes; pack it again.")
            return header

    return tarfile.open(fileobj=file, mode=mode, tarinfo=Header)  # type: ignore[call-overload]


def _entries(archive: tarfile.TarFile) -> Generator[tarfile.TarInfo, None, None]:
    """Yield the regular files of an archive; links, devices and sparse files are none."""
    while (entry := archive.next()) is not None:
        if entry.size < 0:  # an extended header says so; Python would go back to the same member for ever
            raise tarfile.ReadError(f"a member of {entry.size:,} bytes")
        cast(Any, archive).members.clear()  # it would keep all headers
        if entry.isreg() and not entry.issparse():
            yield entry
