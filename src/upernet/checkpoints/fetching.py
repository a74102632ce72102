"""Published weights: fetched at first use, verified, and found again afterwards.

The Hugging Face Hub's client is behind all downloads: it knows the address of files on the Hub and the user's token,
and its HTTP client fetches plain URLs as well (`http.py`). Environment variables:

* `UPERNET_HOME`: the folder for the zoo's files. Default: `upernet` in the user's cache folder.
* `UPERNET_OFFLINE=1`: download nothing. A file that is missing is an error that says where to put it by hand.
* `UPERNET_MIRROR=https://host/folder/`: take the zoo's files from there, under their published names. file:///folder/
  works too.
* `UPERNET_NO_RESEARCH_WEIGHTS=1`: refuse weights for research or non-commercial use only (docs/licenses.md).
* `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`: as everywhere. Those of the Hub's client hold as well (`hub.py`).

`NAME.pth.json`, beside `NAME.pth`, records its origin, size, SHA-256 and modification time. `NAME.pth.part` is an
unfinished download.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]
from pydantic import ValidationError

from upernet.checkpoints.http import Download, DownloadError, Progress
from upernet.checkpoints.hub import is_offline
from upernet.checkpoints.terms import refuse_research_weights
from upernet.checkpoints.zoo import ZooEntry, checkpoints_folder, known_entry
from upernet.errors import UpernetError
from upernet.files import write_text
from upernet.settings import Settings

CHUNK = 2**20
HUB_URL = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)")
"""Address of a file on the Hub: repository, revision, file."""


class _Record(Settings):
    """The record of a verified file, in `FILE.json`."""

    url: str
    sha256: str
    bytes: int
    mtime_ns: int


def fetch(entry: ZooEntry | str, *, progress: Progress | None = None, verify: bool = False) -> Path:
    """Return the path of an entry of the zoo, downloaded and verified at first use.

    If the entry has two files, both are fetched, and the path is that of the encoder. The SHA-256 of a file is compared
    with the published one. If none is published, the one of the first download is recorded, and later downloads must
    agree. A file counts as verified while its size and modification time are those of the last verification; otherwise,
    or with `verify`, it is read and hashed again. A file that was put into the folder by hand is hashed and kept like a
    downloaded one. Of several processes, one downloads and the others wait.

    An interrupted download continues where it stopped, if the server still has the same file. A download that fails
    verification is deleted; a file that was there before and fails is left alone.

    Args:
        entry: A name of `list_zoo()`, or an entry.
        progress: Called as the download advances; without it, one line on stderr announces the download.
        verify: Hash a file that is there already.

    Raises:
        UpernetError: The name is unknown, downloads are off, the file cannot be downloaded or is not what was
            published, the weights are for research only and refused (`terms.py`), or the disk is full.
    """
    if isinstance(entry, str):
        entry = known_entry(entry)
    refuse_research_weights(entry.name or entry.file, entry.research_only)
    paths = [_fetch_file(part, entry.files, progress, verify) for part in entry.files]
    return paths[0]


def _fetch_file(entry: ZooEntry, parts: Sequence[ZooEntry], progress: Progress | None, verify: bool) -> Path:
    path = checkpoints_folder() / entry.file
    if not verify and _is_unchanged(path, entry):
        return path
    urls = addresses(entry)
    with _lock(path):
        if not verify and _is_unchanged(path, entry):  # another process has fetched it
            return path
        record = _read_record(path)
        expected = entry.sha256 or (record.sha256 if record else None)
        if path.is_file():
            url = record.url if record else urls[0]
            remedy = f"delete it, then `upernet download {entry.name}` fetches it again"
            sha256 = _verify(path, expected, str(path), remedy)
        else:
            url, sha256 = _download(entry, parts, urls, path, expected, progress)
        status = path.stat()
        record = _Record(url=url, sha256=sha256, bytes=status.st_size, mtime_ns=status.st_mtime_ns)
        write_text(_record_file(path), record.model_dump_json(indent=2) + "\n")
    return path


def _download(
    entry: ZooEntry,
    parts: Sequence[ZooEntry],
    urls: tuple[str, ...],
    path: Path,
    expected: str | None,
    progress: Progress | None,
) -> tuple[str, str]:
    """Download the file from the first address that has it; return the address and the SHA-256.

    Errors say how to get by hand all of the model's files that are missing; `parts` are all that it has.
    """
    missing = [part for part in parts if not (checkpoints_folder() / part.file).is_file()]
    several = len(missing) > 1
    wanted = " and ".join(addresses(part)[0] for part in missing)
    place = f"them into {path.parent}" if several else f"it at {path}"
    if is_offline() and not urls[0].startswith("file:"):
        raise UpernetError(
            f"{entry.name}: not downloaded yet, and downloads are off (UPERNET_OFFLINE); "
            f"fetch {wanted} on another computer and put {place}."
        )
    failures: list[str] = []
    refused: UpernetError | None = None
    for url in urls:
        if progress is None:
            print(f"Downloading {url} to {path}", file=sys.stderr)
        address, headers = _resolve(url)
        download = Download(address, path.with_name(f"{path.name}.part"), entry.bytes, progress, headers)
        try:
            download.run()
        except DownloadError as error:
            kept = f" (the first {download.kept} bytes are kept)" if download.kept else ""
            failures.append(f"{url}: {error}{kept}")
            continue
        origin = "" if entry.sha256 else f"; if the publisher replaced the file, delete {_record_file(path)}"
        try:
            remedy = f"the download was deleted; try again or set another UPERNET_MIRROR{origin}"
            sha256 = _verify(download.part, expected, url, remedy)
            download.part.replace(path)
            return url, sha256
        except UpernetError as error:
            refused = refused or error
        finally:
            download.discard()
    if refused is not None:
        raise refused
    by_hand = f"fetch {wanted if several else 'it'} by hand and put {place}"
    raise UpernetError(f"{'; '.join(failures)}; try again later, or {by_hand}.")


def _resolve(url: str) -> tuple[str, dict[str, str]]:
    """Return where and with which headers the Hub's client requests a file on the Hub; other addresses stay."""
    place = HUB_URL.fullmatch(url)
    if place is None:
        return url, {}
    return hf_hub_url(place[1], unquote(place[3]), revision=place[2]), build_hf_headers(library_name="upernet")


def addresses(entry: ZooEntry) -> tuple[str, ...]:
    """Return the addresses of a file of the zoo, or only the one below `UPERNET_MIRROR`, if that is set."""
    mirror = os.environ.get("UPERNET_MIRROR")
    if not mirror:
        return (entry.url, *entry.mirrors)
    try:
        scheme = urlsplit(mirror).scheme
    except ValueError as error:
        raise UpernetError(f"UPERNET_MIRROR={mirror}: {error}; correct the address.") from None
    if scheme not in ("http", "https", "file"):
        raise UpernetError(f"UPERNET_MIRROR={mirror}: must begin with https://, http:// or file://.")
    return (f"{mirror.rstrip('/')}/{entry.file}",)


@contextmanager
def _lock(path: Path) -> Generator[None, None, None]:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # pyright: ignore[reportUnknownMemberType]
    except OSError as error:
        raise UpernetError(
            f"{path}: cannot be kept there ({error.strerror or error}); set UPERNET_HOME to another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _is_unchanged(path: Path, entry: ZooEntry) -> bool:
    """Return whether the file is as it was when it was last verified."""
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


def _verify(path: Path, expected: str | None, source: str, remedy: str) -> str:
    """Return the SHA-256 of the file at `path`.

    Raises:
        UpernetError: The file is a web page or empty, or its hash is not `expected`.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        start = file.peek(64).lstrip()[:1]
        if start in (b"", b"<"):
            what = "a web page (perhaps a login or error page)" if start else "an empty file"
            raise UpernetError(f"{source}: {what} instead of weights; {remedy}.")
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    if expected not in (None, sha256):
        raise UpernetError(f"{source}: damaged or not the right file (SHA-256 {sha256}, not {expected}); {remedy}.")
    return sha256
