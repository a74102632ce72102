"""Files of repositories on the Hugging Face Hub, through its client, and what its errors mean.

Environment variables: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`, ... as in huggingface_hub;
`UPERNET_OFFLINE=1` downloads nothing. Repositories are kept in the cache of the client.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

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

from upernet.checkpoints.formats.transformers import MAX_CONFIG_BYTES
from upernet.checkpoints.http import CONNECTION_ERRORS, MAX_BYTES
from upernet.checkpoints.terms import is_on
from upernet.checkpoints.zoo import SUFFIXES
from upernet.errors import UpernetError

ODD_ANSWERS = (TypeError, KeyError, AttributeError, json.JSONDecodeError)
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
        url = hf_hub_url(repository, file, revision=revision)
        try:
            size = get_hf_file_metadata(url, token=options.token).size
        except CONNECTION_ERRORS as error:
            # Where nobody answers, the client would try again for 23 seconds before it looks into its cache. After an
            # answer, the cache may have the file, or the download says what is wrong.
            size, offline = None, _status(error) == 0
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
    if not found:
        raise UpernetError(f"{reference}: the repository has no checkpoint ({', '.join(SUFFIXES)}); check its name.")
    listed = ", ".join(found[:10]) + (f", ... ({len(found)} in all)" if len(found) > 10 else "")
    raise UpernetError(f"{reference}: the repository must hold one checkpoint (found: {listed}); add /FILE.")


def explain(error: Exception) -> str:
    """Return what is wrong and what to do."""
    if (
        isinstance(error, LocalEntryNotFoundError)
        and isinstance(error.__cause__, Exception)
        and _status(error.__cause__)
    ):
        error = error.__cause__  # the client says that there is no connection, whatever the Hub has answered
    for kind, reason in REASONS:
        if isinstance(error, kind):
            return reason
    if (status := _status(error)) in (401, 403):
        return "the token may not do this; run `hf auth login`, or give another token"
    if status:
        return f"the server answered {status}; try again later"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; make room, or set HF_HOME to another folder"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{(lines[0] if lines else type(error).__name__).rstrip('.')}; check the name and the connection"


def _status(error: Exception) -> int:
    """Return the status of the HTTP answer behind an error; 0: there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def is_offline() -> bool:
    """Return whether `UPERNET_OFFLINE` forbids downloads."""
    return is_on("UPERNET_OFFLINE")
