"""CVAT for images 1.1: XML with `image` elements that hold `polygon`, `box`, `ellipse` and `mask`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from upernet.data.shapes.drawing import Drawing, Shape, ShapesFile
from upernet.data.shapes.formats import polygon_of, size_of, text_of
from upernet.errors import UpernetError

OUTLINES = ("polygon", "box")


def read(text: str, path: Path) -> ShapesFile:
    """Read the content of a CVAT file; see `upernet.data.shapes.read_shapes`."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UpernetError(f"{path}: declares XML entities, which CVAT never does; export the annotations again.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UpernetError(f"{path}: is not XML ({error}); export the annotations again.") from None
    labels: dict[str, str | None] = {}
    for number, element in enumerate(root.iterfind(".//label[name]")):
        color = element.findtext("color", "")
        name = text_of(element.findtext("name"), f"{path}: label {number}", "its name")
        labels[name] = color.lower() if re.fullmatch("#[0-9a-fA-F]{6}", color) else None
    drawings = [_drawing(element, str(path)) for element in root.iterfind("image")]
    if not drawings:
        raise UpernetError(f"{path}: lists no image; export the annotations as `CVAT for images 1.1`.")
    for drawing in drawings:
        for shape in drawing.shapes:
            labels.setdefault(shape.label, None)
    return ShapesFile(drawings, list(labels), {name: color for name, color in labels.items() if color})


def _drawing(element: Element, path: str) -> Drawing:
    name = text_of(element.get("name"), f"{path}: image {element.get('id')}", "its name")
    where = f"{path}: image {name}"
    size = size_of(element.get("width"), element.get("height"), where)
    shapes: list[Shape] = []
    skipped = 0
    for child in element:
        if child.tag not in (*OUTLINES, "mask"):
            skipped += child.tag in ("polyline", "points", "ellipse", "cuboid", "skeleton")
            continue
        label = text_of(child.get("label"), where, f"the label of a {child.tag}")
        order = int(child.get("z_order", "0")) if re.fullmatch(r"-?\d{1,9}", child.get("z_order", "0")) else 0
        if child.tag == "mask":
            shapes.append(Shape(label, mask=_mask(child, size, where), order=order))
        else:
            shapes.append(Shape(label, [polygon_of(_corners(child), where)], order=order))
    return Drawing(PurePosixPath(name.replace("\\", "/")), size, shapes, skipped)


def _corners(element: Element) -> list[list[str]] | None:
    """Return the corners of a polygon or a box as text."""
    if element.tag == "polygon":
        return [point.split(",") for point in element.get("points", "").split(";")]
    sides = [element.get(name) for name in ("xtl", "ytl", "xbr", "ybr")]
    left, top, right, bottom = (side if side is not None else "" for side in sides)
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _mask(element: Element, size: tuple[int, int] | None, where: str) -> Callable[[], npt.NDArray[np.bool_]]:
    """Return the function that decodes a `mask`: run lengths along the rows of a box, starting with background."""

    def decode() -> npt.NDArray[np.bool_]:
        try:
            left, top, width, height = (int(element.get(name, "")) for name in ("left", "top", "width", "height"))
            runs = np.array([int(run) for run in element.get("rle", "").split(",")], dtype=np.int64)
        except (ValueError, OverflowError):
            raise UpernetError(f"{where}: a mask is damaged; export the annotations again.") from None
        inside = size is not None and 0 <= left <= left + width <= size[0] and 0 <= top <= top + height <= size[1]
        fits = inside and (runs >= 0).all() and (runs <= width * height).all() and sum(runs.tolist()) == width * height
        if size is None or not fits:
            raise UpernetError(f"{where}: a mask does not fit the photo; export the annotations again.")
        values = np.zeros(len(runs), dtype=bool)
        values[1::2] = True
        mask = np.zeros(size[::-1], dtype=bool)
        mask[top : top + height, left : left + width] = np.reshape(np.repeat(values, runs), (height, width))
        return mask

    return decode
