"""The formats of annotation files, and reading a file of any of them."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from upernet.data.image_limits import MAX_PIXELS
from upernet.data.shapes.drawing import Points, ShapesFile
from upernet.errors import UpernetError

FORMATS = ("coco", "labelme", "cvat")
MAX_BYTES = 2_000_000_000


def read_shapes(path: Path, format: str) -> ShapesFile:
    """Read a file of annotations.

    Raises:
        UpernetError: The file is missing, or is not of that format; the message names it.
    """
    try:
        return import_module(f"upernet.data.shapes.{format}").read(read_text(path), path)
    except RecursionError:
        raise UpernetError(f"{path}: is nested too deeply to be annotations; export them again.") from None


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 text file.

    Raises:
        UpernetError: The file is missing, not a file, too large, or not UTF-8.
    """
    if not os.path.isfile(path):
        raise UpernetError(f"{path}: no such file; correct `shapes` in the recipe, or put the annotations there.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UpernetError(f"{path}: has more than 2 GB; split the annotations into several files.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UpernetError(f"{path}: cannot be read as UTF-8 text ({error}); export the annotations again.") from None


def polygon_of(values: Any, where: str) -> Points:
    """Return N x 2 points from a flat list `[x, y, x, y, ...]` or a list of pairs.

    Raises:
        UpernetError: They are not at least three points of finite numbers.
    """
    try:
        numbers: Points = np.array(values, dtype=np.float64).flatten()
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    points: Points = np.stack([numbers[: len(numbers) // 2 * 2 : 2], numbers[1::2]], axis=1)
    if len(points) < 3 or not np.isfinite(points).all():
        raise UpernetError(f"{where}: a polygon needs three points or more, as numbers; export the annotations again.")
    return points


def size_of(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """Return width and height in pixels; None if they are not given.

    Raises:
        UpernetError: They are not numbers of pixels.
    """
    if width is None or height is None:
        return None
    try:
        size = (int(width), int(height))
    except (TypeError, ValueError, OverflowError):
        size = (0, 0)
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise UpernetError(f"{where}: width and height are not numbers of pixels; export the annotations again.")
    return size


def text_of(value: Any, where: str, what: str) -> str:
    """Return a value that must be text (or a whole number), without spaces around it.

    Raises:
        UpernetError: It is not, or is empty.
    """
    text = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not text or len(text) > 1000:
        raise UpernetError(f"{where}: {what} is missing or is not text; export the annotations again.")
    return text


def entries(values: Any, key: str, where: str) -> list[dict[str, Any]]:
    """Return the list of objects under a key of a JSON object.

    Raises:
        UpernetError: It is not there, or is something else.
    """
    found = cast("dict[str, Any]", values).get(key) if isinstance(values, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in cast("list[Any]", found)):
        raise UpernetError(f"{where}: has no list of {key}; export the annotations again.")
    return cast("list[dict[str, Any]]", found)
