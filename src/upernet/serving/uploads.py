"""Receiving of photos: the limits on bodies and pixels are checked before anything is decoded."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import PurePosixPath

import anyio
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from upernet.data.images import read_size
from upernet.errors import UpernetError, printable
from upernet.serving.errors import RefusedError
from upernet.serving.limits import Limits

MULTIPART = "multipart/form-data"
RAW_TYPES = ("image/", "application/octet-stream")
FIELD = "file"
MOST_FIELDS = 8
LONGEST_FIELD = 2**16
LONGEST_NAME = 200
MOST_READS = 20_000
"""Reads of the header of an image; those of photos take some hundred."""
BOUNDARY = re.compile(r"""boundary=(?:"([^"\\]{1,70})"|([^\s";,]{1,70}))\s*(?:;|$)""", re.IGNORECASE)
"""RFC 2046, 5.1.1: at most 70 characters."""


class Hold:
    """Bytes that one request holds, which count towards those of all requests until the block ends."""

    def __init__(self, receiver: Receiver):
        self._receiver = receiver
        self._size = 0

    def add(self, size: int) -> None:
        """Hold more bytes.

        Raises:
            RefusedError: Together with those of other requests, they are too many.
        """
        others = self._receiver.held - self._size
        if others and self._receiver.held + size > self._receiver.limits.held:
            raise RefusedError(429, "too many photos are being transferred; try again in a second.", retry_after=1)
        self.keep(size)

    def keep(self, size: int) -> None:
        """Hold more bytes, which are there already."""
        self._receiver.held += size
        self._size += size

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep(-self._size)


@dataclass
class Upload:
    """A photo as a client has sent it."""

    content: bytes
    name: str | None
    """Name of the file, without folders."""

    def take(self) -> bytes:
        """Return the content, and keep no reference to it: it is freed as soon as the photo is decoded."""
        content, self.content = self.content, b""
        return content


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory: the server writes no photo to disk. The size of the body is limited elsewhere."""

    spool_max_size = max_file_size = 2**62  # the name in this and in earlier versions of Starlette


class Receiver:
    """Receives the bodies of requests, with a limit on the bytes of all together."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.held = 0
        """Bytes of the bodies and the answers of all requests that are not answered yet."""

    async def receive(self, request: Request, hold: Hold) -> Upload:
        """Receive the photo of a request, and count its bytes.

        Raises:
            RefusedError: The type, the size or the form of the body is not accepted, it arrives too slowly, or too many
                bytes of other requests are held.
            starlette.requests.ClientDisconnect: The client has gone.
        """
        media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type != MULTIPART and not media_type.startswith(RAW_TYPES):
            raise RefusedError(
                415,
                f"the content type {printable(media_type)[:80]!r} is not accepted; send the photo as the field "
                f"{FIELD!r} of {MULTIPART}, or as the body with its own type, such as image/jpeg.",
            )
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.limits.body:
            raise self._too_large()

        async def chunks() -> AsyncGenerator[bytes, None]:
            received = 0
            async for chunk in request.stream():
                received += len(chunk)
                if received > self.limits.body:
                    raise self._too_large()
                hold.add(len(chunk))
                yield chunk

        try:
            with anyio.fail_after(self.limits.upload_seconds):
                return await (_file_in(chunks(), request.headers) if media_type == MULTIPART else _raw(chunks()))
        except TimeoutError:
            raise RefusedError(
                408,
                f"the body did not arrive within {self.limits.upload_seconds:g} seconds; send a smaller photo, or "
                "check the connection.",
            ) from None

    def _too_large(self) -> RefusedError:
        limit = self.limits.body / 2**20
        return RefusedError(413, f"the body has more than {limit:g} MiB; send a smaller photo, or raise --max-mib.")


async def _raw(chunks: AsyncGenerator[bytes, None]) -> Upload:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
    return Upload(bytes(body), None)


async def _file_in(chunks: AsyncGenerator[bytes, None], headers: Headers) -> Upload:
    """Return the file in a multipart form."""
    boundary = BOUNDARY.search(headers.get("content-type", ""))
    if boundary is None:
        raise _bad_form("its boundary is missing or longer than 70 characters")
    # Only the boundary: Starlette would decode names as the client's `charset` says, with any codec of Python.
    form_type = Headers({"content-type": f'{MULTIPART}; boundary="{boundary[1] or boundary[2]}"'})
    parser = _InMemoryParser(form_type, chunks, max_files=1, max_fields=MOST_FIELDS)
    parser.max_part_size = LONGEST_FIELD
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        raise _bad_form(printable(getattr(error, "message", "it is damaged"))[:100].rstrip(".")) from None
    try:
        found = form.get(FIELD)
        if not isinstance(found, UploadFile):
            raise RefusedError(422, f"the form has no file in the field {FIELD!r}; send the photo in it.")
        name = PurePosixPath((found.filename or "").replace("\\", "/")).name[-LONGEST_NAME:]
        return Upload(await found.read(), printable(name) or None)
    finally:
        await form.close()


def _bad_form(reason: str) -> RefusedError:
    return RefusedError(400, f"the form cannot be read ({reason}); send one file, in the field {FIELD!r}.")


class _Header(io.BytesIO):
    """An image file whose header may take only so many reads: one of millions of parts would take seconds."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise UpernetError("the image: its header has too many parts; export it again.")
        return super().read(size)


def pixels_of(content: bytes, limits: Limits) -> int:
    """Return the number of pixels of a photo; nothing is decoded.

    Raises:
        RefusedError: It is not an image that can be read, or it is too large.
    """
    if not content:
        raise RefusedError(400, "the photo is empty; send an image file.")
    try:
        width, height = read_size(_Header(content))
    except UpernetError as error:
        raise RefusedError(422, str(error)) from None
    if width * height > limits.pixels:
        raise RefusedError(
            413,
            f"the photo has {width * height / 1e6:,.0f} megapixels, more than the {limits.pixels / 1e6:g} that are "
            "accepted; send a smaller photo, or raise --max-megapixels.",
        )
    return width * height
