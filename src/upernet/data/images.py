"""Decoding of photos and masks, with one sentence for files that cannot be read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from upernet.data.image_limits import MAX_PIXELS, excess
from upernet.errors import UpernetError

_REDUCE = "reduce it, cut it into pieces, or export it as PNG"
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "BMP", "GIF", "PPM", "HEIF")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".gif", ".ppm", ".pgm", ".pbm")
)
"""Suffixes, in lower case, of the photos in a folder."""
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
"""Suffixes, in lower case, of photos that need pillow-heif."""

ImageFile = str | os.PathLike[str] | BinaryIO
Result = TypeVar("Result")
Box = tuple[int, int, int, int]

_BLOCK = 2048
"""Largest side of the blocks in which images are converted: a converted pixel takes up to 30 bytes."""
_TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> how the image is turned upright."""


def read_image(file: ImageFile) -> Image.Image:
    """Decode a photo: a path, or a file open for binary reading.

    Takes JPEG, PNG, WebP, TIFF, AVIF, BMP, GIF (first frame) and PPM; gray, palette, CMYK, alpha (composited on white)
    and 16-bit gray (scaled to 8 bits); HEIC where pillow-heif is installed.

    Returns:
        A loaded PIL image of mode RGB, turned upright by its EXIF orientation.

    Raises:
        UpernetError: The file is missing, a directory, empty, not an image, truncated, or beyond `image_limits`.
    """
    return _decode(file, lambda image: _to_rgb(_upright(image)))


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label map: a single-channel integer PNG (1 to 16 bits), or the indices of a palette PNG.

    Returns:
        H x W array, uint8 where the file has at most 8 bits a pixel, else int32; values as they are in the file.

    Raises:
        UpernetError: As `read_image`, or the file holds colors instead of class numbers, or is JPEG compressed.
    """
    return _decode(path, lambda image: _class_numbers(image, path))


def read_color_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask in colors: RGB, RGBA (whose alpha is dropped), palette or gray.

    Returns:
        uint8 H x W x 3, RGB.

    Raises:
        UpernetError: As `read_image`, or the file is JPEG compressed.
    """
    return _decode(path, lambda image: _colors(image, path))


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        size: Width and height of the upright image in pixels.
        mode: Mode of Pillow, such as `RGB`.
        format: Format of Pillow, such as `PNG`.
        palette: Colors of the indices of a palette image, RGB each; empty: there is no palette.
    """

    size: tuple[int, int]
    mode: str
    format: str
    palette: tuple[tuple[int, int, int], ...] = ()


def read_header(file: ImageFile) -> Header:
    """Read the header of an image without decoding its pixels. Raises the errors of `read_image`."""

    def read(image: Image.Image) -> Header:
        width, height = image.size
        size = (height, width) if _orientation(image) >= 5 else (width, height)
        levels: list[int] = (image.getpalette("RGB") or []) if image.mode == "P" else []
        palette = tuple(zip(levels[::3], levels[1::3], levels[2::3], strict=True))
        return Header(size, image.mode, image.format or "", palette)

    return _decode(file, read, decodes=False)


def read_size(file: ImageFile) -> tuple[int, int]:
    """Read width and height of an image, as they are stored: it may have to be turned upright.

    Unlike `read_header`, which looks for the orientation behind the pixels of a PNG, it never decodes anything. Raises
    the errors of `read_image`.
    """
    return _decode(file, lambda image: image.size, decodes=False)


def is_photo(path: Path) -> bool:
    """Return whether the name looks like that of a photo; hidden files never do."""
    suffix = path.suffix.lower()
    return (suffix in SUFFIXES or (suffix in HEIC_SUFFIXES and reads_heic())) and not path.name.startswith(".")


@cache
def reads_heic() -> bool:
    """Return whether pillow-heif is installed, after registering it with Pillow."""
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _decode(file: ImageFile, read: Callable[[Image.Image], Result], decodes: bool = True) -> Result:
    name = _name(file)
    _refuse_non_file(file, name)
    # Pillow's plugins raise many types on damaged files (struct.error, SyntaxError, ValueError, ...); all of them mean
    # that the file cannot be decoded.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file if hasattr(file, "read") else Path(file), formats=_formats()) as image:  # type: ignore[arg-type]
                width, height = cast("tuple[int, int]", image.size)  # pyright: ignore[reportUnknownMemberType]
                if too_much := excess(cast(Image.Image, image), decodes):
                    raise UpernetError(f"{name}: has {too_much} and was not decoded; {_REDUCE}.")
                if width < 1 or height < 1:
                    raise UpernetError(f"{name}: the image has no pixels ({width} x {height}); replace the file.")
                return read(image)  # pyright: ignore[reportUnknownArgumentType]
        except UpernetError:
            raise
        except Image.DecompressionBombError:
            limit = MAX_PIXELS // 1_000_000
            raise UpernetError(f"{name}: has more than {limit} megapixels and was not decoded; {_REDUCE}.") from None
        except UnidentifiedImageError:
            if _is_heic(file) and not reads_heic():
                raise UpernetError(
                    f"{name}: is a HEIC photo, which needs pillow-heif; run: pip install 'upernet[heic]'."
                ) from None
            kinds = "JPEG, PNG, WebP, TIFF, AVIF, BMP, GIF or PPM"
            raise UpernetError(f"{name}: not an image that can be read; give a {kinds} file.") from None
        except MemoryError:
            raise UpernetError(f"{name}: does not fit in memory; reduce the image.") from None
        except PermissionError:
            raise UpernetError(f"{name}: may not be read; change its permissions.") from None
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UpernetError(
                f"{name}: the image is damaged or truncated ({reason}); copy or export the file again."
            ) from error


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    reads_heic()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_heic(file: ImageFile) -> bool:
    """Return whether a file begins as HEIC does (ISO 23008-12, 10.2): a box `ftyp` with a brand of HEVC images."""
    try:
        if isinstance(file, (str, os.PathLike)):
            with open(file, "rb") as opened:
                start = opened.read(12)
        else:
            file.seek(0)
            start = file.read(12)
    except (OSError, ValueError):
        return False
    return start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def _name(file: ImageFile) -> str:
    if isinstance(file, (str, os.PathLike)):
        return os.fspath(file)
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "the image"


def _refuse_non_file(file: ImageFile, name: str) -> None:
    if not isinstance(file, (str, os.PathLike)):
        return
    path = Path(file)
    try:
        if path.is_dir():
            raise UpernetError(f"{name}: is a directory; give the path of an image file.")
        if not path.exists():
            raise UpernetError(f"{name}: no such file; check the path.")
        if not path.is_file():
            raise UpernetError(f"{name}: is a pipe or a device, not a file; save the image to a file first.")
        if path.stat().st_size == 0:
            raise UpernetError(f"{name}: the file is empty; copy or export it again.")
    except (OSError, ValueError) as error:
        raise UpernetError(f"{name}: cannot be read ({error}); check the path.") from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 if there is none or it is damaged, because the pixels are still good."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow's EXIF parser raises many types
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    """Decode an image and turn it upright; unlike Pillow, leave its EXIF block alone, which may be damaged."""
    image.load()
    orientation = _orientation(image)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _gray_to_rgb(image)
    if image.has_transparency_data:
        rgb = Image.new("RGB", image.size)
        for box in _blocks(image.size):
            block = image.crop(box).convert("RGBA")
            white = Image.new("RGBA", block.size, "white")
            rgb.paste(Image.alpha_composite(white, block).convert("RGB"), box)
        return rgb
    return image if type(image) is Image.Image and image.mode == "RGB" else image.convert("RGB")


def _gray_to_rgb(image: Image.Image) -> Image.Image:
    """Convert gray of more than 8 bits: divide 16-bit values by 257; multiply floats up to 1 by 255.

    Values that fit neither (below 0, above 65535) are stretched from their minimum and maximum to 0..255.
    """
    is_float = image.mode == "F"
    extremes = [(block.min(), block.max()) for block in map(_numbers, map(image.crop, _blocks(image.size)))]
    low, high = float(min(least for least, _ in extremes)), float(max(greatest for _, greatest in extremes))
    offset, factor = 0.0, 1.0
    if low < 0 or high > 65535:
        offset, factor = low, 255 / max(high - low, 1e-12)
    elif not is_float or high > 255:
        factor = 1 / 257
    elif high <= 1:
        factor = 255.0
    rgb = Image.new("RGB", image.size)
    for box in _blocks(image.size):
        values = np.rint((_numbers(image.crop(box)) - offset) * factor).astype(np.uint8)
        rgb.paste(Image.fromarray(values).convert("RGB"), box)
    return rgb


def _numbers(image: Image.Image) -> np.ndarray:
    """Return the values as float64, H x W; 0 for those that are not finite."""
    return np.nan_to_num(np.asarray(image).astype(np.float64), copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _blocks(size: tuple[int, int]) -> Iterator[Box]:
    """Yield left, top, right and bottom of blocks that cover an image of `size`."""
    width, height = size
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            yield left, top, min(left + _BLOCK, width), min(top + _BLOCK, height)


def _colors(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    _refuse_jpeg(image, path, "colors")
    if image.mode.startswith("I") or image.mode == "F":
        raise UpernetError(f"{path}: is a mask of class numbers, not of colors; take `colors` out of the recipe.")
    return np.asarray(image.convert("RGB"))


def _refuse_jpeg(image: Image.Image, path: str | os.PathLike[str], what: str) -> None:
    if image.format in ("JPEG", "MPO"):
        raise UpernetError(f"{path}: a JPEG mask has blurred {what}; export the mask again as PNG.")


def _class_numbers(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    _refuse_jpeg(image, path, "class numbers")
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        return np.asarray(image).astype(np.int32)
    if image.mode not in ("1", "L", "P"):
        raise UpernetError(
            f"{path}: is an image of mode {image.mode}, not a mask of class numbers; save it with one channel whose "
            "values are the numbers of the classes (8-bit gray, or palette, PNG), or list its colors under `colors`."
        )
    # Pillow spreads gray of 2 and 4 bits over 0..255.
    tiles = getattr(image, "tile", None)
    spread = {"L;2": 85, "L;4": 17}.get(str(tiles[0][3]) if tiles else "", 1)
    values = np.asarray(image).astype(np.uint8)
    return values if spread == 1 else values // spread
