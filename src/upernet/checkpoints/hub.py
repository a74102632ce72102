"""Downloads of published weights: fetched at first use, verified, and found again afterwards.

Files on the Hugging Face Hub are fetched by its client, all others as plain URLs (`http.py`). Environment variables:

* `UPERNET_HOME`: the folder for the zoo's files. Default: `upernet` in the user's cache folder.
* `UPERNET_OFFLINE=1`: download nothing. A file that is missing is an error that says where to put it by hand.
* `UPERNET_MIRROR=https://host/folder/`: take the zoo's files from there, under their published names. file:///folder/
  works too.
* `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, ...: as in huggingface_hub. Repositories that are named as hf://OWNER/NAME are
  kept in its cache.
* `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`: as everywhere.

`NAME.pth.json`, beside `NAME.pth`, records its origin, size, SHA-256 and modification time. `NAME.pth.part` and
`NAME.pth.hub` are unfinished downloads.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import cast
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from huggingface_hub import HfApi
from huggingface_hub import hf_hub_download as _untyped_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from pydantic import ValidationError

from upernet.checkpoints.http import ConnectionFailed, Download, DownloadError, Progress
from upernet.checkpoints.zoo import SUFFIXES, ZooEntry, checkpoints_folder, known_entry
from upernet.errors import UpernetError
from upernet.files import write_text
from upernet.settings import Settings

CHUNK = 2**20
HUB_URL = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)")
"""Address of a file on the Hub: repository, revision, file."""
HUB_ERRORS = (OSError, ValueError, EntryNotFoundError, ConnectionFailed)
"""What the Hub's client raises: for connections, the disk, names that are not valid, and files that do not exist."""
hf_hub_download = cast(Callable[..., str], _untyped_download)
USUAL_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a repository, in order of preference."""


class _Record(Settings):
    """What is known of a verified file, in `FILE.json`."""

    url: str
    sha256: str
    bytes: int
    mtime_ns: int


def fetch(entry: ZooEntry | str, *, progress: Progress | None = None, verify: bool = False) -> Path:
    """Return the path of a file of the zoo, downloaded and verified at first use.

    The SHA-256 of a file is compared with the published one. If none is published, the one of the first download is
    recorded, and later downloads must agree. A file counts as verified while its size and modification time are those
    of the last verification; otherwise, or with `verify`, it is read and hashed again. A file that was put into the
    folder by hand is hashed and kept like a downloaded one. Of several processes, one downloads and the others wait.

    An interrupted download continues where it stopped, if the server still has the same file. A download that fails
    verification is deleted; a file that was there before and fails is left alone.

    Args:
        entry: A name of `list_zoo()`, or an entry.
        progress: Called as the download of a plain URL advances; without it, one line on stderr announces the download.
        verify: Hash a file that is there already.

    Raises:
        UpernetError: The name is unknown, downloads are off, the file cannot be downloaded or is not what was
            published, or the disk is full.
    """
    if isinstance(entry, str):
        entry = known_entry(entry)
    path = checkpoints_folder() / entry.file
    if not verify and _is_unchanged(path, entry):
        return path
    urls = _mirrored(entry)
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
            url, sha256 = _download(entry, urls, path, expected, progress)
        status = path.stat()
        record = _Record(url=url, sha256=sha256, bytes=status.st_size, mtime_ns=status.st_mtime_ns)
        write_text(_record_file(path), record.model_dump_json(indent=2) + "\n")
    return path


def fetch_hub(repository: str, file: str | None = None, revision: str | None = None) -> Path:
    """Return the path of a checkpoint in a repository on the Hugging Face Hub, downloaded into the Hub's cache.

    A `config.json` in the same folder, which names the classes of a transformers model, is downloaded as well.

    Args:
        repository: OWNER/NAME.
        file: Path of the file in the repository. Default: `model.safetensors`, `pytorch_model.bin`, or the only
            checkpoint.
        revision: Branch, tag or commit. Default: the main branch.

    Raises:
        UpernetError: There is no such repository or file, the repository has several checkpoints, or the file cannot be
            downloaded.
    """
    reference = f"hf://{repository}" + (f"/{file}" if file else "")
    if file is not None and not file.endswith(SUFFIXES):
        raise UpernetError(f"{reference}: not a checkpoint; give a file that ends with {', '.join(SUFFIXES)}.")
    offline = _is_offline()
    with _hub_errors(reference):
        for name in (file,) if file else USUAL_FILES:
            try:
                return _with_config(repository, name, revision, offline)
            except LocalEntryNotFoundError:
                if not offline:
                    raise
            except EntryNotFoundError:
                if file:
                    raise
        if offline:
            raise UpernetError(f"{reference}: not downloaded yet, and downloads are off (UPERNET_OFFLINE).")
        names = [name for name in HfApi().list_repo_files(repository, revision=revision) if name.endswith(SUFFIXES)]
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise UpernetError(f"{reference}: the repository must hold one checkpoint (found: {found}); add /FILE.")
        return _with_config(repository, names[0], revision, offline)


def _with_config(repository: str, file: str, revision: str | None, offline: bool) -> Path:
    path = hf_hub_download(repository, file, revision=revision, local_files_only=offline)
    config = PurePosixPath(file).with_name("config.json").as_posix()
    with suppress(EntryNotFoundError):
        hf_hub_download(repository, config, revision=revision, local_files_only=offline)
    return Path(path)


def _download(
    entry: ZooEntry, urls: tuple[str, ...], path: Path, expected: str | None, progress: Progress | None
) -> tuple[str, str]:
    """Download the file from the first address that has it; return the address and the SHA-256."""
    if _is_offline() and not urls[0].startswith("file:"):
        raise UpernetError(
            f"{entry.name}: not downloaded yet, and downloads are off (UPERNET_OFFLINE); "
            f"fetch {urls[0]} on another computer and put it at {path}."
        )
    failures: list[str] = []
    for url in urls:
        if progress is None:
            print(f"Downloading {url} to {path}", file=sys.stderr)
        download = Download(url, path.with_name(f"{path.name}.part"), entry.bytes, progress)
        hub_folder = path.with_name(f"{path.name}.hub")
        try:
            if place := HUB_URL.fullmatch(url):
                part = _download_from_hub(place[1], place[2], place[3], hub_folder)
            else:
                download.run()
                part = download.part
        except DownloadError as error:
            kept = f" (the first {download.size} bytes are kept)" if download.size else ""
            failures.append(f"{url}: {error}{kept}")
            continue
        origin = "" if entry.sha256 else f", unless the publisher replaced it: then delete {_record_file(path)}"
        try:
            remedy = f"the download was deleted; try again, or another UPERNET_MIRROR{origin}"
            sha256 = _verify(part, expected, url, remedy)
            part.replace(path)
        finally:
            download.discard()
            shutil.rmtree(hub_folder, ignore_errors=True)
        return url, sha256
    raise UpernetError(f"{'; '.join(failures)}; try again later, or fetch it by hand and put it at {path}.")


def _download_from_hub(repository: str, revision: str, file: str, folder: Path) -> Path:
    try:
        return Path(hf_hub_download(repository, unquote(file), revision=revision, local_dir=folder))
    except HUB_ERRORS as error:
        raise DownloadError(_first_line(error)) from None


@contextmanager
def _hub_errors(reference: str) -> Generator[None, None, None]:
    try:
        yield
    except HUB_ERRORS as error:
        raise UpernetError(f"{reference}: {_first_line(error)}; check the name and the connection.") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _mirrored(entry: ZooEntry) -> tuple[str, ...]:
    mirror = os.environ.get("UPERNET_MIRROR")
    if not mirror:
        return (entry.url, *entry.mirrors)
    if urlsplit(mirror).scheme not in ("http", "https", "file"):
        raise UpernetError(f"UPERNET_MIRROR={mirror}: must begin with https://, http:// or file://.")
    return (f"{mirror.rstrip('/')}/{entry.file}",)


def _is_offline() -> bool:
    return os.environ.get("UPERNET_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


@contextmanager
def _lock(path: Path) -> Generator[None, None, None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise UpernetError(
            f"{path}: cannot be kept there ({error.strerror or error}); set UPERNET_HOME to another folder."
        ) from error


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
            what = "a web page (of a login or an error?)" if start else "an empty file"
            raise UpernetError(f"{source}: {what} instead of weights; {remedy}.")
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    if expected not in (None, sha256):
        raise UpernetError(f"{source}: damaged or not the right file (SHA-256 {sha256}, not {expected}); {remedy}.")
    return sha256
