"""Parses in the formats of other programs: COCO, supervision, pandas and GeoJSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from upernet.errors import UpernetError
from upernet.inference.label_map import LabelMap
from upernet.inference.regions import Region
from upernet.rle import encode

if TYPE_CHECKING:
    from upernet.inference.parse import Parse

Segmentation = Literal["rle", "polygon"]
COLUMNS = (
    *("path", "level", "name", "label", "area", "share", "x0", "y0", "x1", "y1", "center_x", "center_y"),
    "mean_confidence",
)
"""Columns of the table of regions."""


def coco(
    parses: Iterable[Parse],
    level: str | None = None,
    *,
    segmentation: Segmentation = "rle",
    min_area: int = 1,
) -> dict[str, Any]:
    """Return one COCO data set with the regions of a level of all parses.

    Args:
        parses: Parses of one model.
        level: The level. Default: `object`, or the first dense level where there are no objects.
        segmentation: "rle" keeps every pixel, as compressed run lengths; "polygon" lists the outer rings, which loses
            holes, because COCO's polygons have none.
        min_area: Number of pixels from which on regions are included.

    Returns:
        A dictionary that JSON can hold, with `images`, `annotations` (one per region) and `categories` (all classes of
        the level, numbered from 1). `score` is the mean confidence.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: list[dict[str, Any]] = []
    for number, parse in enumerate(parses, start=1):
        label_map = _main_map(parse, level)
        first = 1 if label_map.background else 0
        categories = [
            {"id": label + 1 - first, "name": name, "supercategory": label_map.level}
            for label, name in enumerate(label_map.names)
            if label >= first
        ]
        images.append(
            {
                "id": number,
                "file_name": parse.path or f"{number}",
                "width": parse.photo.width,
                "height": parse.photo.height,
            }
        )
        for region in label_map.regions(min_area=min_area):
            x0, y0, x1, y1 = region.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": region.label + 1 - first,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": region.area,
                    "segmentation": encode(region.full_mask) if segmentation == "rle" else _coco_polygons(region),
                    "iscrowd": 0,
                    "score": round(region.mean_confidence, 4),
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def detections(parse: Parse, level: str | None = None, *, min_area: int = 1) -> Any:
    """Return the regions of a level as `supervision.Detections`.

    The masks take one byte per region and pixel of the photo.

    Args:
        parse: The parse.
        level: As `coco` takes it.
        min_area: Number of pixels from which on regions are included.

    Raises:
        UpernetError: supervision is not installed.
    """
    supervision = _imported("supervision")
    label_map = _main_map(parse, level)
    regions = label_map.regions(min_area=min_area)
    masks = [region.full_mask for region in regions]
    return supervision.Detections(
        xyxy=np.array([region.box for region in regions] or np.zeros((0, 4)), np.float32),
        mask=np.stack(masks) if masks else np.zeros((0, *label_map.labels.shape), bool),
        confidence=np.array([region.mean_confidence for region in regions], np.float32),
        class_id=np.array([region.label for region in regions], int),
        data={"class_name": np.array([region.name for region in regions], dtype=str)},
    )


def dataframe(parse: Parse, levels: Sequence[str] | None = None, *, min_area: int = 1) -> Any:
    """Return a `pandas.DataFrame` with one row per region of each level, largest first, and the columns `COLUMNS`.

    `share` is a fraction of the photo; the other numbers are in pixels. Sum over `area` or `share`, grouped by `level`
    and `name`, for one row per class.

    Args:
        parse: The parse.
        levels: The levels. Default: all dense ones.
        min_area: Number of pixels from which on regions are included.

    Raises:
        UpernetError: pandas is not installed.
    """
    pandas = _imported("pandas")
    rows = [
        (
            *(parse.path, region.level, region.name, region.label, region.area, region.share),
            *(*region.box, *region.centroid, region.mean_confidence),
        )
        for region in _regions(parse, levels, min_area)
    ]
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def geojson(parse: Parse, levels: Sequence[str] | None = None, *, min_area: int = 1) -> dict[str, Any]:
    """Return the outlines of the regions as a GeoJSON `FeatureCollection`, in pixels: x to the right, y down.

    Args:
        parse: The parse.
        levels: The levels. Default: all dense ones.
        min_area: Number of pixels from which on regions are included.
    """
    features = [
        {
            "type": "Feature",
            "properties": {
                "level": region.level,
                "name": region.name,
                "area": region.area,
                "mean_confidence": round(region.mean_confidence, 4),
            },
            "bbox": list(region.box),
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [
                    [[[x, y] for x, y in [*ring, ring[0]]] for ring in polygon] for polygon in region.polygons
                ],
            },
        }
        for region in _regions(parse, levels, min_area)
    ]
    return {"type": "FeatureCollection", "features": features}


def _main_map(parse: Parse, level: str | None) -> LabelMap:
    if level is None:
        if not parse.maps:
            raise UpernetError("this parse has no dense level; parse the photo with levels=['object'].")
        level = "object" if "object" in parse.maps else next(iter(parse.maps))
    return parse.label_map(level)


def _regions(parse: Parse, levels: Sequence[str] | None, min_area: int) -> list[Region]:
    asked = list(parse.maps) if levels is None else [levels] if isinstance(levels, str) else levels
    return [region for level in asked for region in parse.label_map(level).regions(min_area=min_area)]


def _coco_polygons(region: Region) -> list[list[int]]:
    return [[value for corner in polygon[0] for value in corner] for polygon in region.polygons]


def _imported(package: Literal["pandas", "supervision"]) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise UpernetError(f"{package} is not installed; run: pip install 'upernet[{package}]'.") from None
