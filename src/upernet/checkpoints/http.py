"""Resumable downloads, through the HTTP client of huggingface_hub.

What has arrived stays in a file `part`, and is not requested again as long as the server still has the same file. The
client's own `hf_hub_download` starts over when a process was interrupted, which is too costly for files of gigabytes.
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session
from pydantic import ValidationError

from upernet.errors import UpernetError
from upernet.files import write_text
from upernet.settings import Settings

RETRIES = 3
"""How many attempts in a row may make no progress before a download fails."""
DELAY = 0.5
"""Seconds before the first further attempt; doubled each time."""
TIMEOUT = 30.0
"""Seconds that a server may stay silent."""
PATIENCE = 5.0
"""Seconds that a server may take to answer where the program can do without it."""
MAX_BYTES = 32 * 2**30
"""Size of the largest file whose size nobody has published; the largest published weights have 12 GB."""
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP answers after which another attempt may succeed."""
_httpx: Any = import_module(HfHubHTTPError.__bases__[0].__module__)
"""The client's HTTP library: httpx, or httpx2 since version 2 of huggingface_hub."""
CONNECTION_ERRORS: tuple[type[Exception], ...] = (_httpx.HTTPError, _httpx.InvalidURL)
"""Exceptions of the HTTP library."""

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes that have arrived and of the whole file (None if the server does not say)."""


class DownloadError(Exception):
    """A file cannot be downloaded; the text says why."""


class _TemporaryError(DownloadError):
    """The next attempt may succeed."""


class _State(Settings):
    """The state of an unfinished download, in `PART.json`."""

    url: str
    validator: str
    """ETag or Last-Modified, which shows whether the server still has the same file."""
    bytes: int | None
    """Size of the whole file."""


@dataclass(frozen=True)
class Download:
    """A download of `url` (http, https or file) to the file `part`."""

    url: str
    part: Path
    bytes: int | None = None
    """Published size; a file of another size is refused before it is downloaded."""
    progress: Progress | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further headers of the requests, in lower case."""

    def run(self) -> None:
        """Complete `part`, from where an earlier download stopped if the server still has the same file.

        Raises:
            DownloadError: The file cannot be downloaded, is a web page, or has another size. Bytes that may be useful
                next time stay in `part`.
            UpernetError: The disk is full.
        """
        if self.url.startswith("file:"):
            return self._copy()
        furthest, failures = self.size, 0
        while True:
            try:
                return self._request_rest()
            except _TemporaryError:
                failures = 0 if self.size > furthest else failures + 1
                if failures > RETRIES:
                    raise
                furthest = max(furthest, self.size)
                time.sleep(DELAY * 2**failures)

    @property
    def size(self) -> int:
        """Number of bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def kept(self) -> int:
        """Number of bytes that the next download of `url` need not request again."""
        return self.size if self._read_state() else 0

    def discard(self) -> None:
        """Delete what has arrived."""
        self.part.unlink(missing_ok=True)
        self._state_file.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def _copy(self) -> None:
        source = Path(url2pathname(urlsplit(self.url).path))
        try:
            status = source.stat()
            if not stat.S_ISREG(status.st_mode):
                raise DownloadError("it is not a file")
            self._check_size(status.st_size)
            file = open(source, "rb")  # noqa: SIM115 (closed below; errors of the copy are those of the target)
        except (OSError, ValueError) as error:
            raise DownloadError(getattr(error, "strerror", None) or str(error)) from None
        with file, self._disk(), open(self.part, "wb") as part:
            shutil.copyfileobj(file, part)

    def _request_rest(self) -> None:
        known = self._read_state()
        if known is not None and known.bytes == self.size:
            return
        headers = {"user-agent": "upernet", **self.headers, "Accept-Encoding": "identity"}
        if known and self.size:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": known.validator}
        try:
            with get_session().stream("GET", self.url, headers=headers, timeout=TIMEOUT) as response:
                self._check_answer(response)
                total = self._receive(response, known)
        except OfflineModeIsEnabled:
            raise DownloadError("downloads are off (HF_HUB_OFFLINE)") from None
        except (ImportError, ValueError) as error:  # a proxy or a token of the environment that the client cannot use
            raise DownloadError(f"{error}; check the proxy and the other settings in the environment") from None
        except CONNECTION_ERRORS as error:
            raise _connection_error(error) from None
        if total not in (None, self.size):
            raise _TemporaryError(f"the connection ended after {self.size} of {total} bytes")

    def _check_answer(self, response: Any) -> None:
        if urlsplit(str(response.url)).scheme not in ("https", urlsplit(self.url).scheme):
            raise DownloadError(f"it leads to {response.url}, which is not https")
        status: int = response.status_code
        if status == 416:  # what has arrived is not the beginning of the server's file
            self.discard()
            raise _TemporaryError("the server's file changed during the download")
        if status not in (200, 206):
            answer = f"the server answered {status} {response.reason_phrase}".rstrip()
            raise (_TemporaryError if status in TEMPORARY else DownloadError)(answer)

    def _receive(self, response: Any, known: _State | None) -> int | None:
        """Append the body to `part`, or start over; return the size that the whole file must have, if it is known."""
        headers: Mapping[str, str] = response.headers
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
            raise DownloadError("a web page came instead of weights (perhaps a login or error page)")
        if response.status_code == 206:
            if known is None or not _continues(headers, known, self.size):
                self.discard()
                raise _TemporaryError("the server's file changed during the download")
            total = known.bytes
        else:  # the first request, or the file has changed, or the server does not support ranges
            length = headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            if total is not None:
                self._check_size(total)
            self.discard()  # not before: what has arrived from another address outlives one that does not answer
            if validator := _validator(headers):
                state = _State(url=self.url, validator=validator, bytes=total)
                write_text(self._state_file, state.model_dump_json())
        total = self.bytes if total is None else total
        limit = MAX_BYTES if total is None else total
        done = self.size
        with self._disk():
            file = open(self.part, "ab", buffering=0)  # noqa: SIM115 (closed below; unbuffered: closing writes nothing)
        with file:
            for chunk in _chunks(response, total):
                done += len(chunk)
                if done > limit:
                    break
                rest = memoryview(chunk)
                with self._disk():
                    while rest:
                        rest = rest[file.write(rest) :]
                if self.progress is not None:
                    self.progress(done, total)
        if done > limit:
            self.discard()
            reason = "that it should have" if total is not None else "that any published weights have"
            raise DownloadError(f"the file there has more than the {limit} bytes {reason}")
        return total

    def _check_size(self, size: int) -> None:
        if self.bytes is None and size > MAX_BYTES:
            raise DownloadError(f"the file there has {size} bytes, more than any published weights")
        if self.bytes not in (None, size):
            raise DownloadError(f"the file there has {size} bytes, not {self.bytes} as published")

    def _read_state(self) -> _State | None:
        try:
            state = _State.model_validate_json(self._state_file.read_bytes())
        except (OSError, ValidationError):
            return None
        return state if state.url == self.url else None

    @contextmanager
    def _disk(self) -> Generator[None, None, None]:
        """Report errors of the disk, which are not those of the connection."""
        try:
            yield
        except OSError as error:
            what = "the disk is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror})"
            raise UpernetError(
                f"{self.part}: {what}; make room and call again (it continues where it stopped), "
                "or set UPERNET_HOME to another folder."
            ) from error


def answers(url: str) -> bool:
    """Return whether the server of `url` answers at all, within `PATIENCE` seconds; of a file, whether it exists."""
    if url.startswith("file:"):
        return Path(url2pathname(urlsplit(url).path)).exists()
    try:
        get_session().head(url, timeout=PATIENCE)
    except (*CONNECTION_ERRORS, OfflineModeIsEnabled, ImportError, ValueError):
        return False
    return True


def _chunks(response: Any, total: int | None) -> Iterator[bytes]:
    """Yield the body as far as it arrives; if `total` is known, it tells whether that was all."""
    try:
        yield from response.iter_raw()
    except CONNECTION_ERRORS as error:
        if total is None or isinstance(error, _httpx.TimeoutException):
            raise


def _connection_error(error: Exception) -> DownloadError:
    if isinstance(error, _httpx.TimeoutException):
        return _TemporaryError("the server stayed silent")
    text = str(error).rstrip(".") or type(error).__name__
    is_final = isinstance(error, (_httpx.UnsupportedProtocol, _httpx.InvalidURL))
    return (DownloadError if is_final else _TemporaryError)(text)


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return what `If-Range` may name (RFC 9110, 13.1.5): a strong ETag, or the time of the last change."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _continues(headers: Mapping[str, str], known: _State, start: int) -> bool:
    """Return whether a partial answer continues the file that `known` describes at `start`."""
    place = re.match(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    if place is None or int(place[1]) != start:
        return False
    same_size = known.bytes is None or place[2] in ("*", str(known.bytes))
    return same_size and _validator(headers) in (None, known.validator)
