"""Photos as callers have them: files, addresses, bytes, images, arrays and tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import torch
from PIL import Image, ImageOps

from upernet.data.images import read_image
from upernet.errors import UpernetError, printable
from upernet.inference import storage
from upernet.inference.web import LARGEST, is_address

PhotoLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor
"""A photo as callers have it:

* the path of a file, or an address: http, https, or of an object store (s3, gs, ...)
* the content of an image file, as bytes or as a file that is open for binary reading
* a PIL image
* an RGB array H x W x 3, or an RGB tensor 3 x H x W; uint8, or floats from 0 to 1
"""


def is_batch(photos: object) -> TypeGuard[Sequence[PhotoLike]]:
    """Return whether `photos` holds several: a list, a tuple, an array N x H x W x 3 or a tensor N x 3 x H x W."""
    return isinstance(photos, (list, tuple)) or (isinstance(photos, (np.ndarray, torch.Tensor)) and photos.ndim == 4)


def check_several(photos: object) -> None:
    """Refuse a single photo where several are expected: iterating over it would give characters, numbers or rows.

    Raises:
        UpernetError: `photos` is one photo.
    """
    is_row = isinstance(photos, (np.ndarray, torch.Tensor)) and photos.ndim < 4
    if is_row or isinstance(photos, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, io.IOBase)):
        raise UpernetError("one photo is given where several are expected; pass a list: [photo].")


def read_photo(image: PhotoLike) -> tuple[Image.Image, str | None]:
    """Return a photo as an upright RGB image, and its path or address if it has one.

    Raises:
        UpernetError: The photo cannot be read, or has another type, shape or dtype.
    """
    if isinstance(image, str) and is_address(image):
        return read_image(NamedBytes(storage.read(image), image)), image
    if isinstance(image, (str, os.PathLike)):
        return read_image(image), os.fspath(image)
    if isinstance(image, Image.Image):
        return _upright_rgb(image), None
    if isinstance(image, np.ndarray):
        return _from_array(image), None
    if isinstance(image, torch.Tensor):
        return _from_array(_from_tensor(image)), None
    if isinstance(image, (bytes, bytearray, memoryview)):
        return read_image(io.BytesIO(image)), None
    if hasattr(image, "read"):
        return _from_file(image)
    raise UpernetError(
        "a photo must be a path, an address, bytes, an open file, a PIL image, an array or a tensor, "
        f"not {type(image).__name__}."
    )


def name_of(image: PhotoLike) -> str:
    """Return a photo's path or address; for others, what it is."""
    if isinstance(image, NamedBytes):
        return printable(image.name)
    return printable(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else "the photo"


class NamedBytes(io.BytesIO):
    """The content of a file, with the name that errors give."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def _from_file(file: BinaryIO) -> tuple[Image.Image, str | None]:
    path: Any = getattr(file, "name", None)
    path = path if isinstance(path, str) else None
    try:
        content: Any = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # closed, or not open for reading
        raise UpernetError(f"{path or 'the file'}: cannot be read ({error}); open it again.") from None
    if not isinstance(content, bytes):
        raise UpernetError(f"{path or 'the file'}: is open as text; open it with mode 'rb'.")
    if len(content) > LARGEST:
        raise UpernetError(f"{path or 'the file'}: has more than {LARGEST >> 20} MiB; pass its path.")
    return read_image(NamedBytes(content, path or "the file")), path


def _upright_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise UpernetError(f"image of {image.width} x {image.height}: a photo must have at least one pixel.")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "RGB":
            return upright
        if upright.mode not in ("1", "L", "LA", "P", "RGBA", "I", "I;16", "F"):
            return upright.convert("RGB")
        # Palettes, alpha and 16 bits: `read_image` is the one place that knows what becomes of them.
        file = io.BytesIO()
        if upright.mode in ("I", "F"):  # PNG has no such pixels
            upright.save(file, "TIFF")
        else:
            upright.save(file, "PNG", compress_level=0)
    except (OSError, ValueError, SyntaxError) as error:
        raise UpernetError(f"the image cannot be decoded ({error}); open its file again.") from error
    file.seek(0)
    return read_image(file)


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        shape = " x ".join(map(str, tensor.shape)) or "no dimensions"
        fix = "a photo must be 3 x H x W (RGB)"
        if tensor.ndim == 3 and tensor.shape[2] == 3:
            fix += "; pass tensor.permute(2, 0, 1)"
        elif tensor.ndim == 3 and tensor.shape[0] == 1:
            fix += "; pass tensor.expand(3, -1, -1) for a gray one"
        raise UpernetError(f"tensor of {shape}: {fix}.")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise UpernetError("the tensor is sparse or has no data; pass tensor.to_dense() with its values.")
    tensor = tensor.detach().cpu()
    values = tensor.float() if tensor.is_floating_point() else tensor  # numpy has no bfloat16
    return values.permute(1, 2, 0).numpy()


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        shape = " x ".join(map(str, array.shape)) or "no dimensions"
        raise UpernetError(f"array of {array.dtype}, {shape}: {_shape_fix(array)}.")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:  # NaN fails too
            raise UpernetError(
                f"the photo has floats from {low:.3g} to {high:.3g}: they must be from 0 to 1; pass the photo before "
                "it is normalized, or pass array.clip(0, 255).astype(numpy.uint8)."
            )
        array = np.rint(255 * array.astype(np.float32)).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UpernetError(
            f"array of {array.dtype}: a photo must be uint8 from 0 to 255, or floats from 0 to 1; pass "
            "array.clip(0, 255).astype(numpy.uint8)."
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _shape_fix(array: np.ndarray) -> str:
    if 0 in array.shape:
        return "a photo must have at least one pixel"
    if array.ndim == 2:
        return "a photo must be H x W x 3 (RGB); pass numpy.stack([array] * 3, axis=-1) for a gray one"
    if array.ndim == 3 and array.shape[2] == 4:
        return "a photo must be H x W x 3 (RGB); pass array[..., :3]"
    if array.ndim == 3 and array.shape[0] == 3:
        return "a photo must be H x W x 3 (RGB); pass array.transpose(1, 2, 0)"
    return "a photo must be H x W x 3 (RGB)"
