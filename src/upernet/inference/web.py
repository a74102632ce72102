"""Files on the web."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from upernet.errors import UpernetError, printable

LARGEST = 100 << 20
"""Largest number of bytes of a photo that comes from the web or from an open file."""
SILENCE = 20.0
"""Seconds that a server may stay silent."""
PATIENCE = 120.0
"""Seconds that a download may take."""
SCHEMES = ("http", "https")


def is_address(text: str) -> bool:
    """Return whether `text` looks like a web address, of whatever scheme, rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def fetch(address: str) -> bytes:
    """Download a photo.

    Redirects are followed, but only to http and https, and never from https to http.

    Raises:
        UpernetError: The address is not valid or has another scheme, the server does not answer with a file in time, or
            the file has more than `LARGEST` bytes.
    """
    end = time.monotonic() + PATIENCE
    content = bytearray()
    with _answer("GET", address) as response:
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > LARGEST:
                raise UpernetError(f"{address}: has more than {LARGEST >> 20} MiB; download and reduce it first.")
            if time.monotonic() > end:
                raise UpernetError(f"{address}: takes more than {PATIENCE:.0f} seconds; download it first.")
    return bytes(content)


@contextmanager
def stream(address: str) -> Generator[BinaryIO, None, None]:
    """Open a file of any size on the web, to be read from its beginning to its end.

    Raises:
        UpernetError: As `fetch` raises it, also while the file is read.
    """
    with _answer("GET", address) as response:
        yield io.BufferedReader(_Chunks(response.iter_raw()), 1 << 20)


def version(address: str) -> str:
    """Return the ETag of a file on the web, or else when it was changed and its size; "" if the server says neither.

    Raises:
        UpernetError: The address is not valid or leads to another scheme, or the server does not answer.
    """
    with _answer("HEAD", address, check_status=False) as response:
        if response.status_code != 200:
            return ""
        named = [response.headers.get(name, "") for name in ("etag", "last-modified", "content-length")]
    return named[0] or " ".join(filter(None, named[1:]))


@contextmanager
def _answer(method: str, address: str, check_status: bool = True) -> Generator[Any, None, None]:
    """Yield the answer of the server, with one sentence for what goes wrong before and while it is read."""
    try:
        scheme = urlsplit(address).scheme.lower()
    except ValueError as error:
        raise UpernetError(f"{address}: not a valid address ({error}); check it.") from None
    if scheme not in SCHEMES:
        raise UpernetError(f"{address}: not an http or https address; download it first.")
    from huggingface_hub.errors import OfflineModeIsEnabled  # here, because most photos are files
    from huggingface_hub.utils import get_session

    from upernet.checkpoints.http import CONNECTION_ERRORS

    headers = {"user-agent": "upernet", "Accept-Encoding": "identity"}  # no small answer becomes a large one
    try:
        with get_session().stream(method, address, headers=headers, timeout=SILENCE, follow_redirects=True) as response:
            _check_redirects(address, response)
            if check_status and response.status_code != 200:
                answer = f"{response.status_code} {printable(response.reason_phrase)}".rstrip()
                raise UpernetError(f"{address}: the server answered {answer}; check the address.")
            yield response
    except OfflineModeIsEnabled:
        raise UpernetError(f"{address}: downloads are off (HF_HUB_OFFLINE); unset it.") from None
    except CONNECTION_ERRORS as error:
        reason = printable(error).rstrip(".") or type(error).__name__
        raise UpernetError(f"{address}: cannot be downloaded ({reason}); check the address.") from None


def _check_redirects(address: str, response: Any) -> None:
    schemes = [urlsplit(str(answer.url)).scheme.lower() for answer in (*response.history, response)]
    if any(scheme not in SCHEMES for scheme in schemes) or ("https" in schemes and schemes[-1] != "https"):
        raise UpernetError(f"{address}: leads to {printable(response.url)}, which is not https; download it first.")


class _Chunks(io.RawIOBase):
    """A file of the chunks of an iterator."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
