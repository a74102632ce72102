"""COCO's JSON: `images`, `categories` and `annotations` with polygons or run-length encoded masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from upernet.data.shapes.drawing import Drawing, Shape, ShapesFile
from upernet.data.shapes.formats import entries, polygon_of, size_of, text_of
from upernet.errors import UpernetError
from upernet.rle import decode


def read(text: str, path: Path) -> ShapesFile:
    """Read the content of a COCO file; see `upernet.data.shapes.read_shapes`."""
    try:
        values: Any = json.loads(text)
    except ValueError:
        raise UpernetError(f"{path}: is not JSON; export the annotations again.") from None
    names = {
        _key(category.get("id")): text_of(category.get("name"), f"{path}: category {number}", "its name")
        for number, category in enumerate(entries(values, "categories", str(path)))
    }
    shapes: dict[str, list[Shape]] = {}
    skipped: dict[str, int] = {}
    for number, annotation in enumerate(entries(values, "annotations", str(path))):
        where = f"{path}: annotation {number}"
        image = _key(annotation.get("image_id"))
        label = names.get(_key(annotation.get("category_id")))
        if label is None:
            raise UpernetError(f"{where}: its category is not listed under categories; export the annotations again.")
        shape = _shape(label, annotation.get("segmentation"), where)
        if shape is None:
            skipped[image] = skipped.get(image, 0) + 1
        else:
            shapes.setdefault(image, []).append(shape)
    drawings: list[Drawing] = []
    for number, image in enumerate(entries(values, "images", str(path))):
        where = f"{path}: image {number}"
        name = text_of(image.get("file_name"), where, "its file_name")
        size = size_of(image.get("width"), image.get("height"), where)
        key = _key(image.get("id"))
        photo = PurePosixPath(name.replace("\\", "/"))
        drawings.append(Drawing(photo, size, shapes.get(key, []), skipped.get(key, 0)))
    return ShapesFile(drawings, list(dict.fromkeys(names.values())))


def _key(value: Any) -> str:
    """Return an id as text: some tools write the same id as a number and as a string."""
    return str(value) if isinstance(value, (str, int)) else ""


def _shape(label: str, segmentation: Any, where: str) -> Shape | None:
    """Return the shape of a `segmentation`; None if there is none, only a box."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return Shape(label, mask=_decoder(cast("dict[str, Any]", segmentation), where))
    if not isinstance(segmentation, list):
        raise UpernetError(f"{where}: its segmentation is neither polygons nor run lengths; export it again.")
    polygons = cast("list[Any]", segmentation)
    if isinstance(polygons[0], (int, float)):
        return Shape(label, [polygon_of(polygons, where)])  # some tools leave out the outer list
    kept = [polygon_of(polygon, where) for polygon in polygons if not _is_line(polygon)]
    return Shape(label, kept) if kept else None


def _is_line(polygon: Any) -> bool:
    """Return whether a polygon has two points or fewer, as tools write for a click of the mouse."""
    return isinstance(polygon, list) and len(cast("list[Any]", polygon)) < 6


def _decoder(run_lengths: dict[str, Any], where: str) -> Callable[[], npt.NDArray[np.bool_]]:
    def mask() -> npt.NDArray[np.bool_]:
        try:
            size = run_lengths.get("size")
            height, width = cast("list[Any]", size) if isinstance(size, list) else (None, None)
            size_of(width, height, where)  # before memory is taken
            return decode(run_lengths)
        except ValueError:
            raise UpernetError(f"{where}: the size of its run lengths is damaged; export it again.") from None
        except UpernetError as error:
            raise UpernetError(f"{where}: {error}") from None

    return mask
