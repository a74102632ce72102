"""One file over HTTP, resumable: what has come stays in a file `part` and is not asked for again."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic import ValidationError

from upernet.errors import UpernetError
from upernet.files import write_text
from upernet.settings import Settings

CHUNK = 2**20
LATER = (408, 425, 429)
"""HTTP answers below 500 after which another try may succeed."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those of the whole file (None: the server does not say)."""


class TransferError(Exception):
    """The file cannot be had; the text says why."""


class _TryAgain(TransferError):
    """It may be had next time."""


class _State(Settings):
    """What is known of an unfinished transfer, in `PART.json`."""

    url: str
    validator: str
    """ETag or Last-Modified: tells whether the server still has the same file."""
    bytes: int | None
    """Of the whole file."""


@dataclass(frozen=True)
class Transfer:
    """`url` (http, https or file) to the file `part`."""

    url: str
    part: Path
    bytes: int | None = None
    """Expected size."""
    progress: Progress | None = None
    timeout: float = 30.0
    """Seconds that the server may stay silent."""

    def run(self, retries: int, delay: float) -> None:
        """Make `part` whole, from where an earlier transfer stopped if the server still has the same file.

        `retries`: how often in a row a try may get no further; `delay`: seconds before the first of them, doubled
        each time.

        Raises:
            TransferError: the file cannot be had, is a web page, or has another size; what may be of use next time is
                kept in `part`.
            UpernetError: the disk is full.
        """
        furthest, failures = self.size, 0
        while True:
            try:
                return self._request_rest()
            except _TryAgain:
                failures = 0 if self.size > furthest else failures + 1
                if failures > retries:
                    raise
                furthest = max(furthest, self.size)
                time.sleep(delay * 2**failures)

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Remove what is there."""
        self.part.unlink(missing_ok=True)
        self._state_file.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def _request_rest(self) -> None:
        known = self._read_state()
        if known is None:
            self.discard()
        elif known.bytes == self.size:
            return
        headers = {"User-Agent": "upernet", "Accept-Encoding": "identity"}
        if known and self.size:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": known.validator}
        try:
            with build_opener(_Redirects).open(Request(self.url, headers=headers), timeout=self.timeout) as response:
                total = self._receive(response, known)
        except HTTPError as error:
            error.close()
            answer = f"the server answered {error.code} {error.reason}".rstrip()
            if error.code == 416:  # what is there is not the beginning of the server's file
                self.discard()
            elif error.code < 500 and error.code not in LATER:
                raise TransferError(answer) from None
            raise _TryAgain(answer) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            silent = isinstance(reason, TimeoutError)
            text = "the server stayed silent" if silent else str(reason) or type(reason).__name__
            raise (TransferError if self.url.startswith("file:") else _TryAgain)(text) from None
        if total not in (None, self.size):
            raise _TryAgain(f"the connection ended after {self.size} of {total} bytes")

    def _receive(self, response: Any, known: _State | None) -> int | None:
        """Append the body to `part`, or begin it anew; returns the size of the whole file."""
        headers = response.headers
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise TransferError("a web page came instead of weights (of a login or an error?)")
        if response.status == 206:
            if known is None or not _goes_on(headers, known, self.size):
                self.discard()
                raise _TryAgain("the server's file changed during the download")
            total = known.bytes
        else:  # the first request, or the file has changed, or the server does not know ranges
            length = headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            if None not in (self.bytes, total) and total != self.bytes:
                raise TransferError(f"the file there has {total} bytes, not {self.bytes} as published")
            self.discard()
            if validator := _validator(headers):
                state = _State(url=self.url, validator=validator, bytes=total)
                write_text(self._state_file, state.model_dump_json())
        done = self.size
        with self._disk():
            file = open(self.part, "ab", buffering=0)  # noqa: SIM115 (closed below; unbuffered: closing writes nothing)
        with file:
            while chunk := response.read1(CHUNK):
                rest = memoryview(chunk)
                with self._disk():
                    while rest:
                        rest = rest[file.write(rest) :]
                done += len(chunk)
                if self.progress is not None:
                    self.progress(done, total)
        return total

    def _read_state(self) -> _State | None:
        try:
            state = _State.model_validate_json(self._state_file.read_bytes())
        except (OSError, ValidationError):
            return None
        return state if state.url == self.url else None

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Errors of the disk are not those of the connection."""
        try:
            yield
        except OSError as error:
            what = "the disk is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror})"
            raise UpernetError(
                f"{self.part}: {what}; make room and call again (it goes on where it stopped), "
                "or set UPERNET_HOME to another folder."
            ) from error


class _Redirects(HTTPRedirectHandler):
    """Only to https, or from http to http."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise TransferError(f"it leads on to {newurl}, which is not https and was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _validator(headers: Message) -> str | None:
    """What `If-Range` may name (RFC 9110, 13.1.5): a strong ETag, or the time of the last change."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _goes_on(headers: Message, known: _State, start: int) -> bool:
    """Whether a partial answer goes on at `start` in the file that `known` is of."""
    place = re.match(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    if place is None or int(place[1]) != start:
        return False
    same_size = known.bytes is None or place[2] in ("*", str(known.bytes))
    return same_size and _validator(headers) in (None, known.validator)
