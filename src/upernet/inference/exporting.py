"""Parses in the formats of other programs: COCO, supervision, pandas and GeoJSON."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from upernet.errors import UpernetError
from upernet.inference.label_map import LabelMap
from upernet.inference.regions import Region
from upernet.rle import encode

if TYPE_CHECKING:
    from upernet.inference.parse import Parse

MOST_MASK_BYTES = 4 << 30
"""Largest number of bytes that the masks of `detections` may take; supervision holds one of the photo's size each."""
Segmentation = Literal["rle", "polygon"]
COLUMNS = (
    *("path", "level", "name", "label", "area", "share", "x0", "y0", "x1", "y1", "center_x", "center_y"),
    "mean_confidence",
)
"""Columns of the table of regions."""


class CocoDataset:
    """A COCO data set with the regions of one level of many parses.

    Args:
        level: The level. Default: `object`, or the first dense level where there are no objects.
        segmentation: "rle" keeps every pixel, as compressed run lengths; "polygon" lists the outer rings, which loses
            holes, because COCO's polygons have none.
        min_area: Number of pixels from which on regions are included.

    Raises:
        UpernetError: `segmentation` is something else.
    """

    def __init__(self, level: str | None = None, *, segmentation: Segmentation = "rle", min_area: int = 1):
        if segmentation not in get_args(Segmentation):
            raise UpernetError(f"segmentation {segmentation!r}: choose from {', '.join(get_args(Segmentation))}.")
        self.level, self.segmentation, self.min_area = level, segmentation, min_area
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories: list[dict[str, Any]] = []

    def add(self, parse: Parse) -> None:
        """Add a photo and its regions; all parses must be of one model."""
        label_map = _main_map(parse, self.level)
        before = label_map.background - 1  # categories are numbered from 1, without the background class
        self.categories = [
            {"id": label - before, "name": name, "supercategory": label_map.level}
            for label, name in enumerate(label_map.names)
            if label > before
        ]
        image = len(self.images) + 1
        width, height = parse.photo.size
        self.images.append({"id": image, "file_name": parse.path or str(image), "width": width, "height": height})
        for region in label_map.regions(min_area=self.min_area):
            x0, y0, x1, y1 = region.box
            rle = self.segmentation == "rle"
            annotation = {
                "id": len(self.annotations) + 1,
                "image_id": image,
                "category_id": region.label - before,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": region.area,
                "segmentation": encode(region.mask, (height, width), (x0, y0)) if rle else _coco_polygons(region),
                "iscrowd": 0,
                "score": round(region.mean_confidence, 4),
            }
            self.annotations.append(annotation)

    def to_dict(self) -> dict[str, Any]:
        """Return the data set as a dictionary that JSON can hold.

        It has `images`, `annotations` (one per region; `score` is the mean confidence) and `categories` (all classes of
        the level).
        """
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}


def detections(parse: Parse, level: str | None = None, *, min_area: int = 1) -> Any:
    """Return the regions of a level as `supervision.Detections`.

    The masks take one byte per region and pixel of the photo.

    Args:
        parse: The parse.
        level: As `CocoDataset` takes it.
        min_area: Number of pixels from which on regions are included.

    Raises:
        UpernetError: supervision is not installed, or the masks take too much memory.
    """
    supervision = _imported("supervision")
    label_map = _main_map(parse, level)
    regions = label_map.regions(min_area=min_area)
    if len(regions) * label_map.labels.size > MOST_MASK_BYTES:
        raise UpernetError(
            f"{len(regions):,} regions, each with a mask of the whole photo, take more than {MOST_MASK_BYTES >> 30} "
            "GiB; set a larger min_area."
        )
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
