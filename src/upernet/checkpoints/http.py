"""Resumable downloads of plain URLs, through the HTTP client of huggingface_hub.

What has arrived stays in a file `part`, and is not requested again as long as the server still has the same file.
"""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status
from huggingface_hub.utils import http_stream_backoff as _untyped_stream  # pyright: ignore[reportUnknownVariableType]
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
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP answers after which another attempt may succeed."""
ConnectionFailed = cast(type[Exception], HfHubHTTPError.__bases__[0])
"""Base of all exceptions of the HTTP library, which is httpx or httpx2, depending on the version of huggingface_hub."""

_stream = cast(Callable[..., AbstractContextManager[Any]], _untyped_stream)

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes that have arrived and of the whole file (None if the server does not say)."""


class DownloadError(Exception):
    """A file cannot be downloaded; the text says why."""


class _TemporaryError(DownloadError):
    """The next attempt may succeed."""


class _State(Settings):
    """What is known of an unfinished download, in `PART.json`."""

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

    def discard(self) -> None:
        """Delete what has arrived."""
        self.part.unlink(missing_ok=True)
        self._state_file.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def _copy(self) -> None:
        source = Path(url2pathname(unquote(urlsplit(self.url).path)))
        try:
            self._check_size(source.stat().st_size)
            file = open(source, "rb")  # noqa: SIM115 (closed below; errors of the copy are those of the target)
        except OSError as error:
            raise DownloadError(error.strerror or str(error)) from None
        with file, self._disk(), open(self.part, "wb") as part:
            shutil.copyfileobj(file, part)

    def _request_rest(self) -> None:
        known = self._read_state()
        if known is None:
            self.discard()
        elif known.bytes == self.size:
            return
        headers = {"User-Agent": "upernet", "Accept-Encoding": "identity"}
        if known and self.size:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": known.validator}
        request = _stream(
            "GET",
            self.url,
            headers=headers,
            timeout=TIMEOUT,
            max_retries=0,
            retry_on_exceptions=(),
            retry_on_status_codes=(),
        )
        try:
            with request as response:
                if response.status_code == 416:  # what has arrived is not the beginning of the server's file
                    self.discard()
                    raise _TemporaryError("the server's file changed during the download")
                if urlsplit(str(response.url)).scheme not in ("https", urlsplit(self.url).scheme):
                    raise DownloadError(f"it leads to {response.url}, which is not https")
                hf_raise_for_status(response)
                total = self._receive(response, known)
        except HfHubHTTPError as error:
            status = error.response.status_code
            answer = f"the server answered {status} {error.response.reason_phrase}".rstrip()
            raise (_TemporaryError if status in TEMPORARY else DownloadError)(answer) from None
        except ConnectionFailed as error:
            raise _connection_error(error) from None
        if total not in (None, self.size):
            raise _TemporaryError(f"the connection ended after {self.size} of {total} bytes")

    def _receive(self, response: Any, known: _State | None) -> int | None:
        """Append the body to `part`, or start over; return the size of the whole file."""
        headers: Mapping[str, str] = response.headers
        if headers.get("Content-Type", "").partition(";")[0].strip() in ("text/html", "application/xhtml+xml"):
            raise DownloadError("a web page came instead of weights (of a login or an error?)")
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
            self.discard()
            if validator := _validator(headers):
                state = _State(url=self.url, validator=validator, bytes=total)
                write_text(self._state_file, state.model_dump_json())
        limit = total if total is not None else self.bytes
        done = self.size
        with self._disk():
            file = open(self.part, "ab", buffering=0)  # noqa: SIM115 (closed below; unbuffered: closing writes nothing)
        with file:
            for chunk in self._chunks(response):
                done += len(chunk)
                if limit is not None and done > limit:
                    raise DownloadError(f"the file there has more than the {limit} bytes that it should have")
                rest = memoryview(chunk)
                with self._disk():
                    while rest:
                        rest = rest[file.write(rest) :]
                if self.progress is not None:
                    self.progress(done, total)
        return total

    def _chunks(self, response: Any) -> Iterator[bytes]:
        """Yield the body as far as it arrives; the caller compares the size."""
        try:
            yield from response.iter_raw()
        except ConnectionFailed as error:
            if _is_timeout(error):
                raise

    def _check_size(self, size: int) -> None:
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


def _connection_error(error: Exception) -> DownloadError:
    if _is_timeout(error):
        return _TemporaryError("the server stayed silent")
    kind = type(error).__name__
    text = str(error).rstrip(".") or kind
    return DownloadError(text) if kind in ("UnsupportedProtocol", "InvalidURL") else _TemporaryError(text)


def _is_timeout(error: Exception) -> bool:
    return "Timeout" in type(error).__name__


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
