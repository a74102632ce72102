"""Tests of the server with hostile bodies made by Hypothesis: each is answered with a sentence, and it goes on.

The number of bodies is UPERNET_HOSTILE_BODIES, such as 10000 for a long search; the default keeps the suite fast.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import Any

import httpx
import pytest
from helpers.server import Served, photo, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

BODIES = int(os.environ.get("UPERNET_HOSTILE_BODIES", "300"))
ANSWERS = {200, 400, 404, 413, 415, 422}

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

pytestmark = [pytest.mark.slow]


def image(form: str, size: tuple[int, int] = (24, 16), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(file, form, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


SEEDS = [
    *(image(form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "BMP", "GIF", "PPM")),
    *(image("JPEG", progressive=True, exif=exif(orientation)) for orientation in (6, 200)),
    *(image("PNG", mode=mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
    *(image("TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
    image("TIFF", mode="F"),
    image("JPEG", mode="CMYK"),
    image("GIF", save_all=True, append_images=[Image.new("RGB", (24, 16))] * 3),
]


def png(width: int, height: int, content: bytes, depth: int, color: int, extra: bytes) -> bytes:
    """Return a PNG whose checksums are right, whatever it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"eXIf", extra), chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return an image file of which bytes are changed, cut out, doubled or cut off."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        piece = slice(start, start + draw(st.integers(0, 16)))
        kind = draw(st.sampled_from(("change", "remove", "double", "cut", "size")))
        if kind == "change":
            content[piece] = draw(st.binary(max_size=16))
        elif kind == "remove":
            del content[piece]
        elif kind == "double":
            content[start:start] = content[piece] * draw(st.integers(1, 50))
        elif kind == "size":  # huge numbers, where lengths and sizes stand
            content[start : start + 4] = draw(st.sampled_from((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")))
        else:
            del content[start:]
    return bytes(content)


SIZES = st.one_of(st.integers(0, 200), st.sampled_from((65535, 20_000, 2**31 - 1, 2**32 - 1)))
IMAGES = st.one_of(
    st.binary(max_size=600),
    mutated(),
    st.builds(
        png, SIZES, SIZES, st.binary(max_size=300), st.integers(0, 17), st.integers(0, 7), st.binary(max_size=60)
    ),
)
TYPES = st.sampled_from(("image/png", "image/jpeg", "application/octet-stream", "image/svg+xml"))
HEADER_TEXT = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60)


@st.composite
def forms(draw: st.DrawFn) -> tuple[bytes, str]:
    """Return a form and its type; both may be damaged."""
    boundary = draw(st.sampled_from(("x", "----WebKitFormBoundary7MA4YWxk", "'()+_,-./:=?", "a b", "")))
    lines = []
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(('name="file"', 'name="other"', "name=file", "", "name*=utf-8''file")))
        file_name = draw(st.one_of(st.none(), HEADER_TEXT))
        disposition = f"Content-Disposition: form-data; {name}"
        if file_name is not None:
            disposition += f'; filename="{file_name}"'
        end = draw(st.sampled_from(("\r\n", "\n", "")))
        content = draw(st.one_of(IMAGES, st.just(photo(24, 16)), st.just(b"\r\n--x\r\n" * 20)))
        lines.append(f"--{boundary}\r\n{disposition}{end}\r\n".encode("latin-1") + content + b"\r\n")
    closing = draw(st.sampled_from((f"--{boundary}--\r\n", f"--{boundary}--", f"--{boundary}", "")))
    body = b"".join(lines) + closing.encode()
    quoted = draw(st.sampled_from((f'"{boundary}"', boundary, f"{boundary}; charset=utf-16", f'"{boundary}')))
    return body, f"multipart/form-data; boundary={quoted}"


QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "levels": st.lists(
            st.sampled_from(("object", "scene", "part,material", "texture", "x", "\ud7ff", ",")), max_size=3
        ),
        "format": st.sampled_from(("json", "png", "coco", "zip", "x")),
        "include": st.lists(st.sampled_from(("labels", "pixels", "rle", "photo", "confidence", "x")), max_size=3),
        "max_side": st.sampled_from((-1, 0, 16, 20, 10**30, "x")),
        "model": st.sampled_from(("colors", "", "x" * 300, "\n", "é")),
    },
)


@settings(max_examples=BODIES, deadline=None, suppress_health_check=SLOW)
@given(body=st.one_of(st.tuples(IMAGES, TYPES), forms()), query=QUERIES)
def test_hostile_bodies(client: httpx.Client, body: tuple[bytes, str], query: dict[str, Any]):
    content, media_type = body
    answer = client.post("/v1/parse", params=query, content=content, headers={"content-type": media_type})
    if answer.status_code != 200:
        error = answer.json()
        assert set(error) == {"error", "request_id"} and error["error"].isprintable()
    assert answer.status_code in ANSWERS, answer.text


def test_after_hostile_bodies_nothing_is_held_and_photos_are_parsed(client: httpx.Client, server: Served):
    answer = client.post("/v1/parse", content=photo(), headers={"content-type": "image/png"})
    assert answer.status_code == 200
    until(lambda: server.engine.in_memory == 0, "all memory is free")
    assert server.metric("upernet_held_bytes") == 0
