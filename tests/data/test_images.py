"""Tests of upernet.data.images."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from upernet.data import image_limits
from upernet.data.images import read_image, read_mask
from upernet.errors import UpernetError

ROWS, COLUMNS = np.mgrid[:16, :24]
PHOTO = np.stack([ROWS * 10, COLUMNS * 10, 255 - ROWS * 5], axis=-1).astype(np.uint8)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        (".jpg", {"quality": 95}, 12),
        (".png", {}, 0),
        (".webp", {"lossless": True}, 0),
        (".tif", {}, 0),
        (".tiff", {"compression": "tiff_lzw"}, 0),
        (".avif", {"quality": 95}, 16),
        (".bmp", {}, 0),
    ],
)
def test_reads_the_formats_of_photos(tmp_path, suffix, options, tolerance):
    Image.fromarray(PHOTO).save(tmp_path / f"photo{suffix}", **options)
    image = read_image(tmp_path / f"photo{suffix}")
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - PHOTO).max() <= tolerance


def test_reads_open_files_and_paths_as_text(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    assert np.array_equal(np.asarray(read_image(str(tmp_path / "photo.png"))), PHOTO)
    with open(tmp_path / "photo.png", "rb") as file:
        assert np.array_equal(np.asarray(read_image(file)), PHOTO)
    assert np.array_equal(np.asarray(read_image(io.BytesIO((tmp_path / "photo.png").read_bytes()))), PHOTO)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_photos_upright(tmp_path, orientation):
    # What a camera stores so that the EXIF orientation restores PHOTO.
    stored = {
        1: PHOTO,
        2: PHOTO[:, ::-1],
        3: PHOTO[::-1, ::-1],
        4: PHOTO[::-1],
        5: PHOTO.transpose(1, 0, 2),
        6: np.rot90(PHOTO, 1),
        7: PHOTO[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PHOTO, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(read_image(tmp_path / "photo.png")), PHOTO)


def test_a_damaged_exif_block_does_not_cost_the_photo(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 9)
    assert read_image(tmp_path / "photo.jpg").size == (24, 16)


def _alpha(mode):
    image = Image.new(mode, (4, 4), 0)
    image.putalpha(Image.fromarray(np.full((4, 4), 64, dtype=np.uint8)))
    return image


def _transparent_palette():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("L", (4, 4), 77), ".png", (77, 77, 77)),
        (Image.new("1", (4, 4), 1), ".png", (255, 255, 255)),
        (Image.new("RGB", (4, 4), (200, 10, 20)).quantize(4), ".png", (200, 10, 20)),
        (_alpha("RGB"), ".png", (191, 191, 191)),
        (_alpha("L"), ".png", (191, 191, 191)),
        (_alpha("RGB"), ".webp", (191, 191, 191)),
        (_transparent_palette(), ".png", (255, 255, 255)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), ".tif", (255, 0, 0)),
        (Image.fromarray(np.full((4, 4), 257 * 90, dtype=np.uint16)), ".png", (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 257 * 90, dtype=np.uint16)), ".tif", (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 257 * 90, dtype=np.int32)), ".tif", (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 0.6, dtype=np.float32)), ".tif", (153, 153, 153)),
        (Image.fromarray(np.full((4, 4), 153, dtype=np.float32)), ".tif", (153, 153, 153)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, image, suffix, expected):
    options = {"lossless": True} if suffix == ".webp" else {}
    image.save(tmp_path / f"photo{suffix}", **options)
    pixels = np.asarray(read_image(tmp_path / f"photo{suffix}"))
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_floats_that_are_no_numbers_are_black(tmp_path):
    Image.fromarray(np.array([[np.nan, 1.0], [0.0, np.inf]], dtype=np.float32)).save(tmp_path / "photo.tif")
    assert np.asarray(read_image(tmp_path / "photo.tif"))[..., 0].tolist() == [[0, 255], [0, 0]]


def _png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _file(tmp_path, content: bytes, name="bad.png"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def _truncated(tmp_path, suffix, **options):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole{suffix}", **options)
    content = (tmp_path / f"whole{suffix}").read_bytes()
    return _file(tmp_path, content[: len(content) // 2], f"bad{suffix}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "missing.jpg", "no such file"),
        (lambda root: root, "is a directory"),
        (lambda root: root / ("x" * 5000), "check the path"),
        (lambda root: _file(root, b""), "is empty"),
        (lambda root: _file(root, b"just some text"), "not an image"),
        (lambda root: _file(root, b"\xff\xd8\xff\xe0 then nothing", "bad.jpg"), "not an image|damaged or truncated"),
        (lambda root: _file(root, _png(0, 0, 8, 0, b"")), "not an image|no pixels|damaged"),
        (lambda root: _file(root, _png(60_000, 60_000, 8, 2, b"")), "megapixels"),
        (lambda root: _file(root, _png(13_360, 13_360, 8, 2, b"")), "megapixels"),
        (lambda root: _truncated(root, ".jpg"), "damaged or truncated"),
        (lambda root: _truncated(root, ".png"), "damaged or truncated"),
        (lambda root: _truncated(root, ".webp"), "not an image|damaged or truncated"),
        (lambda root: _truncated(root, ".tif"), "damaged or truncated"),
        (lambda root: _truncated(root, ".avif"), "not an image|damaged or truncated"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(UpernetError, match=message) as caught:
        read_image(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.endswith(".") and "\n" not in text


def test_large_photos_below_the_limit_are_decoded_without_a_warning(tmp_path):
    file = _file(tmp_path, _png(12_000, 12_000, 8, 2, b""))  # it ends early
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UpernetError, match="damaged or truncated"):
            read_image(file)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    monkeypatch.setattr(image_limits, "MAX_PIXELS", 24 * 16 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("was decoded"))
    with pytest.raises(UpernetError, match="megapixels"):
        read_image(tmp_path / "photo.png")


MASK = np.array([[0, 1, 2], [3, 11, 255]], dtype=np.uint8)


def test_masks_keep_their_values(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "gray.png")
    palette = Image.fromarray(MASK).convert("P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(MASK.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(MASK > 1).save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "gray.png"), MASK)
    assert np.array_equal(read_mask(tmp_path / "palette.png"), np.asarray(palette))
    assert np.array_equal(read_mask(tmp_path / "deep.png"), MASK.astype(int) * 200)
    assert np.array_equal(read_mask(tmp_path / "bits.png"), (MASK > 1).astype(int))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_gray_masks_of_few_bits_are_not_stretched(tmp_path, depth):
    values = [0, 1, 0, 1] if depth == 1 else [0, 1, 2, 3]
    bits = "".join(f"{value:0{depth}b}" for value in values).ljust(8, "0")
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    path = _file(tmp_path, _png(4, 1, depth, 0, row))
    assert read_mask(path).tolist() == [values]


def test_broken_masks_are_refused(tmp_path):
    with pytest.raises(UpernetError, match="damaged or truncated"):
        read_mask(_file(tmp_path, _png(40, 40, 8, 0, b"")))
    with pytest.raises(UpernetError, match="no such file"):
        read_mask(tmp_path / "missing.png")


def test_colors_are_no_class_numbers(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "colors.png")
    with pytest.raises(UpernetError, match="save it with one channel"):
        read_mask(tmp_path / "colors.png")
    Image.fromarray(MASK).save(tmp_path / "lossy.jpg")
    with pytest.raises(UpernetError, match="export the mask again as PNG"):
        read_mask(tmp_path / "lossy.jpg")
