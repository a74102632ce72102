"""Receiving of photos: the limits on bodies and pixels are checked before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

import anyio
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from upernet.data.images import read_header
from upernet.errors import UpernetError, printable
from upernet.serving.errors import RefusedError
from upernet.serving.limits import Limits

MULTIPART = "multipart/form-data"
RAW_TYPES = ("image/", "application/octet-stream")
FIELD = "file"
MOST_FIELDS = 8
LONGEST_NAME = 200
DISCARDED = 4
"""Bodies beyond so many times the limit are cut off."""


@dataclass(frozen=True)
class Upload:
    """A photo as a client has sent it."""

    content: bytes
    name: str | None
    """Name of the file, without folders."""


class Receiver:
    """Receives the bodies of requests, with a limit on the bytes of all together."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.held = 0
        """Bytes of the bodies of all requests that are not answered yet."""

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncGenerator[Upload, None]:
        """Receive the photo of a request; its bytes count as held until the block ends.

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
        body = bytearray()
        try:
            try:
                with anyio.fail_after(self.limits.upload_seconds):
                    async for chunk in request.stream():
                        self._hold(len(chunk), len(body))
                        body += chunk
            except TimeoutError:
                raise RefusedError(
                    408,
                    f"the body did not arrive within {self.limits.upload_seconds:g} seconds; send a smaller photo, or "
                    "check the connection.",
                ) from None
            if media_type == MULTIPART:
                yield await _file_in(bytes(body), request.headers)
            else:
                yield Upload(bytes(body), None)
        finally:
            self.held -= len(body)

    def _hold(self, new: int, received: int) -> None:
        if received + new > self.limits.body:
            raise RefusedError(
                413,
                f"the body has more than {self.limits.body / 2**20:g} MiB; send a smaller photo, or raise --max-mib.",
            )
        if self.held + new > self.limits.bodies:
            raise RefusedError(429, "too many photos are being received; try again in a second.", retry_after=1)
        self.held += new


async def _file_in(body: bytes, headers: Headers) -> Upload:
    """Return the file in a multipart form."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(headers, stream(), max_files=1, max_fields=MOST_FIELDS)
    parser.spool_max_size = len(body) + 1  # in memory: the server writes no photo to disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        reason = printable(getattr(error, "message", "it is damaged"))[:100].rstrip(".")
        raise RefusedError(400, f"the form cannot be read ({reason}); send one file, in the field {FIELD!r}.") from None
    found = form.get(FIELD)
    if not isinstance(found, UploadFile):
        raise RefusedError(422, f"the form has no file in the field {FIELD!r}; send the photo in it.")
    name = PurePosixPath((found.filename or "").replace("\\", "/")).name[-LONGEST_NAME:]
    return Upload(await found.read(), printable(name) or None)


def check_header(content: bytes, limits: Limits) -> None:
    """Refuse a body that is no image, or an image with too many pixels, by its header.

    Raises:
        RefusedError: It is not an image that can be read, or it is too large.
    """
    if not content:
        raise RefusedError(400, "the photo is empty; send an image file.")
    try:
        width, height = read_header(io.BytesIO(content)).size
    except UpernetError as error:
        raise RefusedError(422, str(error)) from None
    if width * height > limits.pixels:
        raise RefusedError(
            413,
            f"the photo has {width * height / 1e6:,.0f} megapixels, more than the {limits.pixels / 1e6:g} that are "
            "accepted; send a smaller photo, or raise --max-megapixels.",
        )


async def discard_body(request: Request, limits: Limits) -> None:
    """Receive the rest of a body and forget it, because many clients read no answer before they have sent it all."""
    received = 0
    with anyio.move_on_after(limits.upload_seconds):
        try:
            async for chunk in request.stream():
                received += len(chunk)
                if received > DISCARDED * limits.body:
                    return
        except (ClientDisconnect, RuntimeError):  # the client has gone, or everything was received
            return
