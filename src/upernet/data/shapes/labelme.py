"""Labelme's JSON, one file per photo: `imagePath` and `shapes` with a label and points."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from upernet.data.shapes.drawing import Drawing, Shape, ShapesFile
from upernet.data.shapes.formats import entries, polygon_of, size_of, text_of
from upernet.errors import UpernetError

CIRCLE_POINTS = 64


def read(text: str, path: Path) -> ShapesFile:
    """Read the content of a Labelme file; see `upernet.data.shapes.read_shapes`."""
    try:
        values: Any = json.loads(text)
    except ValueError:
        raise UpernetError(f"{path}: is not JSON; save the file in Labelme again.") from None
    shapes: list[Shape] = []
    skipped = 0
    for number, entry in enumerate(entries(values, "shapes", str(path))):
        where = f"{path}: shape {number}"
        label = text_of(entry.get("label"), where, "its label")
        points = _outline(entry.get("shape_type") or "polygon", entry.get("points"), where)
        if points is None:
            skipped += 1
        else:
            shapes.append(Shape(label, [points]))
    content = cast("dict[str, Any]", values)
    name = text_of(content.get("imagePath"), str(path), "imagePath").replace("\\", "/")
    size = size_of(content.get("imageWidth"), content.get("imageHeight"), str(path))
    drawing = Drawing(PurePosixPath(name), size, shapes, skipped)
    return ShapesFile([drawing], list(dict.fromkeys(shape.label for shape in shapes)))


def _outline(kind: Any, points: Any, where: str) -> np.ndarray | None:
    """Return the outline of a shape, N x 2; None if its kind has no area."""
    if kind == "polygon":
        return polygon_of(points, where)
    if kind not in ("rectangle", "circle"):
        return None
    corners = polygon_of([*points, points[-1]] if isinstance(points, list) and points else points, where)  # pyright: ignore[reportUnknownArgumentType]
    (x1, y1), (x2, y2) = corners[0].tolist(), corners[1].tolist()
    if kind == "rectangle":
        return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    angles = np.arange(CIRCLE_POINTS) * (2 * np.pi / CIRCLE_POINTS)  # a circle: its center, and a point on it
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.hypot(x2 - x1, y2 - y1) + (x1, y1)
