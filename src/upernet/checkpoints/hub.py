"""Downloads of published weights: fetched at first use, verified, and found again afterwards.

The Hugging Face Hub's client is behind all of them: it knows the address of files on the Hub and the user's token, and
its HTTP client fetches plain URLs as well (`http.py`). Environment variables:

* `UPERNET_HOME`: the folder for the zoo's files. Default: `upernet` in the user's cache folder.
* `UPERNET_OFFLINE=1`: download nothing. A file that is missing is an error that says where to put it by hand.
* `UPERNET_MIRROR=https://host/folder/`: take the zoo's files from there, under their published names. file:///folder/
  works too.
* `UPERNET_NO_RESEARCH_WEIGHTS=1`: refuse weights for research or non-commercial use only (docs/licenses.md).
* `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`, ...: as in huggingface_hub. Repositories that are named as
  hf://OWNER/NAME are kept in its cache.
* `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`: as everywhere.

`NAME.pth.json`, beside `NAME.pth`, records its origin, size, SHA-256 and modification time. `NAME.pth.part` is an
unfinished download.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from huggingface_hub import HfApi, HfFileMetadata, constants, hf_hub_url, scan_cache_dir
from huggingface_hub import get_hf_file_metadata as _untyped_metadata  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub import hf_hub_download as _untyped_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import (
    CacheNotFound,
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]
from pydantic import ValidationError

from upernet.checkpoints.formats.transformers import MAX_CONFIG_BYTES
from upernet.checkpoints.http import CONNECTION_ERRORS, MAX_BYTES, Download, DownloadError, Progress
from upernet.checkpoints.terms import is_on, refuse_research_weights
from upernet.checkpoints.zoo import SUFFIXES, ZooEntry, checkpoints_folder, known_entry
from upernet.errors import UpernetError
from upernet.files import write_text
from upernet.settings import Settings

CHUNK = 2**20
HUB_URL = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)")
"""Address of a file on the Hub: repository, revision, file."""
ODD_ANSWERS = (TypeError, KeyError, AttributeError)
"""Exceptions of the Hub's client when a server does not answer as the Hub does."""
HUB_ERRORS = (OSError, ValueError, ImportError, EntryNotFoundError, *ODD_ANSWERS, *CONNECTION_ERRORS)
"""Exceptions of the Hub's client: for connections, the disk, invalid names, and files that do not exist."""
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "its owner must grant you access; ask for it on the Hub and set HF_TOKEN"),
    (RepositoryNotFoundError, "no such repository, or it is private; check the name, or set HF_TOKEN"),
    (RevisionNotFoundError, "no such revision; give a branch, a tag or a commit after @"),
    (LocalEntryNotFoundError, "the Hub cannot be reached; check the connection and HF_ENDPOINT"),
    (EntryNotFoundError, "no such file in the repository; check its name"),
    *((kind, "the server does not answer as the Hub does; check HF_ENDPOINT") for kind in ODD_ANSWERS),
)
"""Messages for the kinds of errors; the first kind that matches counts."""
hf_hub_download = cast(Callable[..., str], _untyped_download)
get_hf_file_metadata = cast(Callable[..., HfFileMetadata], _untyped_metadata)
USUAL_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a repository, in order of preference."""


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


@dataclass(frozen=True)
class HubOptions:
    """How the Hub is asked. The defaults are those of its client."""

    token: str | bool | None = None
    """The token of the user; None: the one of `hf auth login` or HF_TOKEN; False: none."""
    cache_dir: str | Path | None = None
    """Folder for downloads; None: the cache of the Hub's client."""
    local_files_only: bool = False
    """Whether to take only what has been downloaded before."""


def fetch_hub(
    repository: str, file: str | None = None, revision: str | None = None, options: HubOptions | None = None
) -> Path:
    """Return the path of a checkpoint in a repository on the Hugging Face Hub, downloaded into the Hub's cache.

    A `config.json` in the same folder, which names the classes of a transformers model, is downloaded as well. Nothing
    else is, and no code.

    Args:
        repository: OWNER/NAME.
        file: Path of the file in the repository. Default: `model.safetensors`, `pytorch_model.bin`, or the only
            checkpoint.
        revision: Branch, tag or commit. Default: the main branch.
        options: How the Hub is asked.

    Raises:
        UpernetError: There is no such repository or file, the repository has several checkpoints, the name of the file
            leads out of the repository, the file is larger than any weights, or it cannot be downloaded.
    """
    options = options or HubOptions()
    reference = f"hf://{repository}" + (f"/{file}" if file else "") + (f"@{revision}" if revision else "")
    if file is not None and not file.endswith(SUFFIXES):
        raise UpernetError(f"{reference}: not a checkpoint; give a file that ends with {', '.join(SUFFIXES)}.")
    offline = options.local_files_only or is_offline() or constants.HF_HUB_OFFLINE
    try:
        if file is None:
            names = _list_files(repository, revision, options, offline)
            file = _choose_checkpoint(names, reference)
        path = _download_file(repository, file, revision, options, offline, MAX_BYTES)
        config = PurePosixPath(file).with_name("config.json").as_posix()
        with suppress(EntryNotFoundError):
            _download_file(repository, config, revision, options, offline, MAX_CONFIG_BYTES)
    except HUB_ERRORS as error:
        if offline and isinstance(error, LocalEntryNotFoundError):
            reason = "not downloaded yet, and downloads are off (local_files_only, UPERNET_OFFLINE or HF_HUB_OFFLINE)"
        else:
            reason = explain(error)
        raise UpernetError(f"{reference}: {reason}.") from None
    return path


def _download_file(
    repository: str, file: str, revision: str | None, options: HubOptions, offline: bool, limit: int
) -> Path:
    """Return the path of a file of a repository, downloaded into the cache.

    Raises:
        UpernetError: Its name leads out of the repository, or it has more than `limit` bytes.
        Exception: One of `HUB_ERRORS`.
    """
    if "\\" in file or any(part in ("", ".", "..") for part in file.split("/")):
        raise UpernetError(f"hf://{repository}/{file}: is outside of the repository; give a file inside it.")
    if not offline:
        with suppress(*CONNECTION_ERRORS):  # then the cache may have the file, or the download says what is wrong
            url = hf_hub_url(repository, file, revision=revision)
            size = get_hf_file_metadata(url, token=options.token).size
            if size is not None and size > limit:
                raise UpernetError(
                    f"hf://{repository}/{file}: claims {size:,} bytes, more than the {limit:,} that such a file may "
                    "have; check the repository, or download the file yourself."
                )
    return Path(
        hf_hub_download(
            repository,
            file,
            revision=revision,
            local_files_only=offline,
            token=options.token,
            cache_dir=options.cache_dir,
        )
    )


def _list_files(repository: str, revision: str | None, options: HubOptions, offline: bool) -> list[str]:
    """Return the files of a repository, or those in the Hub's cache if the Hub cannot be asked."""
    if offline:
        failure: Exception = LocalEntryNotFoundError(repository)
    else:
        try:
            # list_repo_files repeats a failure for 23 seconds
            info = HfApi(token=options.token).model_info(repository, revision=revision)
            return [file.rfilename for file in info.siblings or ()]
        except CONNECTION_ERRORS as error:
            failure = error
    with suppress(CacheNotFound):
        for repo in scan_cache_dir(options.cache_dir or constants.HF_HUB_CACHE).repos:
            for commit in repo.revisions if (repo.repo_type, repo.repo_id) == ("model", repository) else ():
                if (revision or "main") in {commit.commit_hash, *commit.refs}:
                    return [file.file_path.relative_to(commit.snapshot_path).as_posix() for file in commit.files]
    raise failure


def _choose_checkpoint(names: list[str], reference: str) -> str:
    found = [name for name in names if name.endswith(SUFFIXES)]
    for name in USUAL_FILES:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    more = f", ... ({len(found)} in all)" if len(found) > 10 else ""
    listed = ", ".join(found[:10]) + more or "none"
    raise UpernetError(f"{reference}: the repository must hold one checkpoint (found: {listed}); add /FILE.")


def explain(error: Exception) -> str:
    """Return what is wrong and what to do."""
    for kind, reason in REASONS:
        if isinstance(error, kind):
            return reason
    if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
        return "the token may not do this; run `hf auth login`, or give another token"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; make room, or set HF_HOME to another folder"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{(lines[0] if lines else type(error).__name__).rstrip('.')}; check the name and the connection"


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


def is_offline() -> bool:
    """Return whether `UPERNET_OFFLINE` forbids downloads."""
    return is_on("UPERNET_OFFLINE")


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
