"""Tests of upernet.data.image_limits: small files that would take gigabytes or minutes; the memory of large ones."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upernet.data import image_limits, images
from upernet.data.images import read_image, read_mask
from upernet.errors import UpernetError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
STRIP, ROWS, STRIP_SIZE, TILE_WIDTH, TILE_HEIGHT, TILE, TILE_SIZE = 273, 278, 279, 322, 323, 324, 325


def tiff(tags: dict[int, int], data: bytes, place: int, size: int) -> bytes:
    """Return a TIFF file with these numbers as tags, and deflated `data` in its only strip or tile; RGB has 16 bits."""
    gray = {WIDTH: 64, HEIGHT: 64, BITS: 8, COMPRESSION: 8, PHOTOMETRIC: 1, SAMPLES: 1}
    start = 8 + 2 + 12 * (len(gray | tags) + 2) + 4
    tags = gray | tags | {place: start + 6, size: len(data)}
    if tags[SAMPLES] == 3:
        tags |= {BITS: start, PHOTOMETRIC: 2}
    kinds = {BITS: (3, tags[SAMPLES])}
    rows = b"".join(struct.pack("<HHII", tag, *kinds.get(tag, (4, 1)), tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + struct.pack("<I", 0)
    return head + struct.pack("<HHH", 16, 16, 16) + data


def run_length_bitmap(width: int, height: int) -> bytes:
    """Return a BMP file of one pixel per row, whose other pixels are left out."""
    data = b"\1\0\0\0" * height + b"\0\1"
    start = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + bytes(1024) + data


def jpeg_of_scans(scans: int) -> bytes:
    """Return a progressive JPEG file whose last scan is repeated."""
    file = BytesIO()
    Image.new("RGB", (512, 512)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * scans + b"\xff\xd9"


SIDE = {TILE_WIDTH: 32768, TILE_HEIGHT: 32768}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(SIDE, zlib.compress(bytes(99)), TILE, TILE_SIZE), "has tiles of 1,074 MB and was not decoded"),
        (tiff({WIDTH: 13_000, HEIGHT: 13_000, SAMPLES: 3}, b"", STRIP, STRIP_SIZE), "more than 712 MB of pixels"),
        (run_length_bitmap(170_000_000, 1), "more than 16 megapixels in a slow form of BMP"),
        (run_length_bitmap(16_000, 2_000), "more than 16 megapixels in a slow form of BMP"),
        (b"P3 13000 13000 255 " + b"1 " * 1000, "more than 16 megapixels in a slow form of PPM"),
        (jpeg_of_scans(15_000), "has 15010 scans and was not decoded"),
    ],
    ids=["tile", "samples", "wide bitmap", "bitmap", "text", "scans"],
)
def test_small_files_that_would_take_long_or_much(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    assert len(content) < 2_000_000
    start = time.process_time()
    for read in (read_image, read_mask):
        with pytest.raises(UpernetError, match=message):
            read(path)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (tiff({ROWS: 2**31 - 1}, zlib.compress(bytes(64 * 64)), STRIP, STRIP_SIZE), (64, 64)),
        (run_length_bitmap(64, 64), (64, 64)),
        (jpeg_of_scans(3), (512, 512)),
    ],
    ids=["one strip", "bitmap", "scans"],
)
def test_usual_files_of_these_kinds_are_read(tmp_path: Path, content: bytes, size: tuple[int, int]) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    assert read_image(path).size == size
    with path.open("rb") as file:
        assert read_image(file).size == size


@pytest.mark.parametrize("mode", ["F", "I;16", "RGBA"])
def test_blocks_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (37, 23, 4))
    gray = values[..., 0]
    arrays = {"F": gray.astype(np.float32) - 40, "I;16": gray.astype(np.uint16) * 257, "RGBA": values.astype(np.uint8)}
    image = Image.fromarray(arrays[mode])
    image.save(tmp_path / "photo.tif")
    whole = np.asarray(read_image(tmp_path / "photo.tif"))
    monkeypatch.setattr(images, "_BLOCK", 5)
    assert np.array_equal(np.asarray(read_image(tmp_path / "photo.tif")), whole)
    if mode == "I;16":
        assert np.array_equal(whole[..., 0], values[..., 0])


PEAK = """
import re, sys
from upernet.data.images import read_image
def peak():  # not getrusage, whose peak is inherited from the process that started this one
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
image = read_image(sys.argv[1])
print((peak() - before) / (image.width * image.height))
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc to read a process's peak memory")
@pytest.mark.parametrize("kind", ["float", "turned float", "16 bits", "alpha", "palette"])
def test_bytes_per_pixel_at_the_peak(tmp_path: Path, kind: str) -> None:
    """Two images of four bytes per pixel, three if it is turned, and blocks of a constant size."""
    size = 6000, 4000
    image = Image.new({"16 bits": "I;16", "alpha": "RGBA", "palette": "P"}.get(kind, "F"), size)
    options = {"turned float": {"tiffinfo": {0x0112: 6}}, "palette": {"transparency": 0}}.get(kind, {})
    path = tmp_path / ("photo.png" if kind == "palette" else "photo.tif")
    image.save(path, **({} if kind == "palette" else {"compression": "tiff_adobe_deflate"}), **options)
    result = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    assert float(result.stdout) < (22 if kind == "turned float" else 18)


def test_scans_are_counted_across_chunks() -> None:
    content = bytes(2**20 - 1) + b"\xff\xda" + bytes(10) + b"\xff\xda"
    file = BytesIO(content)
    file.seek(5)
    assert image_limits._count(file, b"\xff\xda") == 2
    assert file.tell() == 5
