"""Outlines of things in photos, as annotation tools export them.

A format is a module of this package, whose `read(path)` returns a `ShapesFile`. The files are not trusted: what they
say about photos is only compared with the photos that are there, and never opened.
"""

from __future__ import annotations

from upernet.data.shapes.drawing import Drawing, Shape, ShapesFile, fill_polygon
from upernet.data.shapes.formats import FORMATS, read_shapes

__all__ = ["FORMATS", "Drawing", "Shape", "ShapesFile", "fill_polygon", "read_shapes"]
