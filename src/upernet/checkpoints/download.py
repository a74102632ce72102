"""Files of the zoo on this computer: downloaded at first use, verified, found again afterwards.

What the user may set, by environment variables:

* `UPERNET_HOME`: the folder that files are kept below; default: `upernet` in the user's cache folder.
* `UPERNET_OFFLINE=1`: nothing is downloaded; a file that is missing is an error that says where to put it by hand.
* `UPERNET_MIRROR=https://host/folder/`: files are taken from there, under their published names (also file:///folder/).
* `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`: as everywhere.

Beside `NAME.pth` lies `NAME.pth.json`: where it came from, its size, SHA-256 and time of change. An unfinished download
is `NAME.pth.part`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from pydantic import ValidationError

from upernet.checkpoints.transfer import CHUNK, Progress, Transfer, TransferError
from upernet.checkpoints.zoo import ZooEntry, known_entry
from upernet.errors import UpernetError
from upernet.files import write_text
from upernet.settings import Settings


class _Record(Settings):
    """What is known of a verified file, in `FILE.json`."""

    url: str
    sha256: str
    bytes: int
    mtime_ns: int


def fetch(
    entry: ZooEntry | str,
    *,
    progress: Progress | None = None,
    offline: bool | None = None,
    verify: bool = False,
    retries: int = 3,
    delay: float = 0.5,
    timeout: float = 30.0,
) -> Path:
    """The path of a file of the zoo, downloaded and verified at first use.

    The SHA-256 of a file is compared with the published one; where none is published, that of the first download is
    kept and holds for later ones. A file that is there counts as verified while its size and time of change are those
    of the last verification; otherwise, or with `verify`, it is read and hashed again. A file that was put into the
    folder by hand is hashed and kept like a downloaded one. Of several processes one downloads, the others wait.

    An interrupted download goes on where it stopped, if the server still has the same file. A download that does not
    pass is deleted; a file that was there before and does not pass is left alone.

    Args:
        entry: a name of `list_zoo()`, or an entry.
        progress: called as the download advances; without it, one line on stderr says that there is one.
        offline: download nothing; None: as `UPERNET_OFFLINE` says.
        verify: hash a file that is there.
        retries: how often in a row a try to go on with a download may get no further before it fails.
        delay: seconds before the first of those; it doubles each time.
        timeout: seconds that a server may stay silent.

    Raises:
        UpernetError: unknown name; offline; the file cannot be had, or is not what was published; the disk is full.
    """
    if isinstance(entry, str):
        entry = known_entry(entry)
    path = checkpoints_folder() / entry.file
    if not verify and _unchanged(path, entry):
        return path
    url = _mirrored(entry)
    with _lock(path):
        if not verify and _unchanged(path, entry):  # another process has fetched it
            return path
        record = _read_record(path)
        expected = entry.sha256 or (record.sha256 if record else None)
        if path.is_file():
            remedy = f"delete it, then `upernet download {entry.name}` fetches it again"
            sha256 = _verified(path, expected, str(path), remedy)
        else:
            if _is_offline(offline) and not url.startswith("file:"):
                raise UpernetError(
                    f"{entry.name}: not downloaded yet, and downloads are off (UPERNET_OFFLINE); "
                    f"fetch {url} on another computer and put it at {path}."
                )
            if progress is None:
                print(f"Downloading {url} to {path}", file=sys.stderr)
            transfer = Transfer(url, path.with_name(f"{path.name}.part"), entry.bytes, progress, timeout)
            try:
                transfer.run(retries, delay)
            except TransferError as error:
                kept = f" (the first {transfer.size} bytes are kept)" if transfer.size else ""
                raise UpernetError(
                    f"{url}: {error}; try again later{kept}, or fetch it by hand and put it at {path}."
                ) from error
            origin = "" if entry.sha256 else f", unless the publisher replaced it: then delete {_record_file(path)}"
            try:
                remedy = f"the download was deleted; try again, or another UPERNET_MIRROR{origin}"
                sha256 = _verified(transfer.part, expected, url, remedy)
            except UpernetError:
                transfer.discard()
                raise
            transfer.part.replace(path)
            transfer.discard()
        status = path.stat()
        record = _Record(url=url, sha256=sha256, bytes=status.st_size, mtime_ns=status.st_mtime_ns)
        write_text(_record_file(path), record.model_dump_json(indent=2) + "\n")
    return path


def is_downloaded(entry: ZooEntry) -> bool:
    """Whether the file of `entry` is on this computer (it may not be verified yet)."""
    return (checkpoints_folder() / entry.file).is_file()


def checkpoints_folder() -> Path:
    """The folder that the zoo's files are kept in; it need not exist.

    Raises:
        UpernetError: the user has no home folder, and `UPERNET_HOME` is not set.
    """
    if home := os.environ.get("UPERNET_HOME"):
        return Path(home) / "checkpoints"
    try:
        if sys.platform == "win32":
            cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            cache = Path.home() / "Library" / "Caches"
        else:
            cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise UpernetError("UPERNET_HOME: set it to a folder for downloads; this user has no home folder.") from None
    return Path(cache) / "upernet" / "checkpoints"


def _mirrored(entry: ZooEntry) -> str:
    mirror = os.environ.get("UPERNET_MIRROR")
    if not mirror:
        return entry.url
    if urlsplit(mirror).scheme not in ("http", "https", "file"):
        raise UpernetError(f"UPERNET_MIRROR={mirror}: must begin with https://, http:// or file://.")
    return f"{mirror.rstrip('/')}/{entry.file}"


def _is_offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    return os.environ.get("UPERNET_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise UpernetError(
            f"{path}: cannot be kept there ({error.strerror or error}); set UPERNET_HOME to another folder."
        ) from error


def _unchanged(path: Path, entry: ZooEntry) -> bool:
    """Whether the file is as it was when it was verified last."""
    record = _read_record(path)
    if record is None or not path.is_file():
        return False
    status = path.stat()
    same = (record.bytes, record.mtime_ns) == (status.st_size, status.st_mtime_ns)
    return same and entry.sha256 in (None, record.sha256)


def _record_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_record(path: Path) -> _Record | None:
    try:
        return _Record.model_validate_json(_record_file(path).read_bytes())
    except (OSError, ValidationError):
        return None


def _verified(path: Path, expected: str | None, source: str, remedy: str) -> str:
    """The SHA-256 of the file at `path`.

    Raises:
        UpernetError: it is a web page or empty, or its hash is not `expected`.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        start = file.peek(64).lstrip()[:1]
        if start in (b"", b"<"):
            what = "a web page (of a login or an error?)" if start else "an empty file"
            raise UpernetError(f"{source}: {what} instead of weights; {remedy}.")
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    if expected not in (None, sha256):
        raise UpernetError(f"{source}: damaged or not the right file (SHA-256 {sha256}, not {expected}); {remedy}.")
    return sha256
