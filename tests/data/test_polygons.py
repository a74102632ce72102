"""Tests of outlines from annotation tools: upernet.data.shapes, upernet.data.sources.polygons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.folders import TAXONOMY, save_photo, source_spec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from upernet.data.shapes import fill_polygon, read_shapes
from upernet.data.sources import open_source
from upernet.errors import UpernetError
from upernet.rle import encode
from upernet.taxonomy import IGNORE

ROAD, TREE = 1, 2
TRUTH = np.full((8, 12), IGNORE)
TRUTH[4:8, 0:12] = ROAD
TRUTH[2:6, 3:7] = TREE
"""A road, and a tree in front of it."""
ROAD_CORNERS = [[0, 4], [12, 4], [12, 8], [0, 8]]
TREE_CORNERS = [[3, 2], [7, 2], [7, 6], [3, 6]]


def open_train(root: Path, **settings):
    spec = {"kind": "polygons", "path": ".", "splits": {"train": ""}, "classes": {"background": None}, **settings}
    return open_source("mine", source_spec(**spec), TAXONOMY, root, "train")


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def flat(corners: list[list[int]]) -> list[int]:
    return [number for corner in corners for number in corner]


def coco(root: Path, **changes: Any) -> None:
    """Write a photo with a tree as polygon (listed first) and a road as polygon, and one with run lengths."""
    for name in ("1.jpg", "sub/2.jpg"):
        save_photo(root / "images" / name)
    tree = {"image_id": 1, "category_id": 9, "segmentation": [flat(TREE_CORNERS)]}
    road = {"image_id": 1, "category_id": 4, "segmentation": [flat(ROAD_CORNERS)]}
    lengths = encode(TRUTH == ROAD)
    values = {
        "images": [
            {"id": 1, "file_name": "1.jpg", "width": 12, "height": 8},
            {"id": 2, "file_name": "/home/else/sub/2.jpg", "width": 12, "height": 8},
        ],
        "categories": [{"id": 4, "name": "Road"}, {"id": 9, "name": "tree"}],
        "annotations": [tree, road, {"image_id": 2, "category_id": 4, "segmentation": lengths}],
    }
    write_json(root / "coco.json", values | changes)


def test_coco(tmp_path):
    coco(tmp_path)
    source = open_train(tmp_path, format="coco", photos="images", shapes="coco.json")
    assert np.array_equal(source[0].maps["object"], TRUTH)
    assert np.array_equal(source[1].maps["object"], np.where(TRUTH == ROAD, ROAD, IGNORE))
    assert [sample.key for sample in source] == ["images/1.jpg", "images/sub/2.jpg"]


def test_pixels_outside_of_all_outlines_are_background(tmp_path):
    coco(tmp_path)
    source = open_train(
        tmp_path, format="coco", photos="images", shapes="coco.json", classes={"background": "sky", "tree": None}
    )
    assert np.array_equal(source[0].maps["object"], np.select([TRUTH == IGNORE, TRUTH == TREE], [0, IGNORE], TRUTH))


def labelme(path: Path, photo: str, *shapes: tuple[str, str, list[list[int]]]) -> None:
    write_json(
        path,
        {
            "imagePath": photo,
            "imageData": None,
            "imageWidth": 12,
            "imageHeight": 8,
            "shapes": [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes],
        },
    )


def test_labelme(tmp_path):
    save_photo(tmp_path / "1.jpg")
    save_photo(tmp_path / "without.jpg")
    road, tree = ("road", "rectangle", [[0, 8], [12, 4]]), ("tree", "polygon", TREE_CORNERS)
    labelme(tmp_path / "1.json", "..\\images\\1.jpg", tree, road, ("tree", "line", [[0, 0], [1, 1]]))
    source = open_train(tmp_path, format="labelme")
    assert len(source) == 1 and np.array_equal(source[0].maps["object"], TRUTH)


def cvat(root: Path, inside: str, head: str = "") -> None:
    save_photo(root / "images" / "1.jpg")
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>{head}<annotations><meta><task><labels>'
        "<label><name>road</name><color>#804080</color></label><label><name>tree</name></label>"
        f'</labels></task></meta><image id="0" name="images/1.jpg" width="12" height="8">{inside}</image></annotations>'
    )


BOX = '<box label="road" z_order="0" xtl="0" ytl="4" xbr="12" ybr="8"/>'


def test_cvat(tmp_path):
    points = ";".join(f"{x},{y}" for x, y in TREE_CORNERS)
    cvat(tmp_path, f'<polygon label="tree" z_order="1" points="{points}"/>{BOX}<points label="road" points="1,1"/>')
    source = open_train(tmp_path, format="cvat", photos="images", shapes="annotations.xml")
    assert np.array_equal(source[0].maps["object"], TRUTH)
    assert read_shapes(tmp_path / "annotations.xml", "cvat").colors == {"road": "#804080"}


def test_masks_of_cvat(tmp_path):
    cvat(tmp_path, BOX + '<mask label="tree" z_order="1" rle="0, 16" left="3" top="2" width="4" height="4"/>')
    source = open_train(tmp_path, format="cvat", photos="images", shapes="annotations.xml")
    assert np.array_equal(source[0].maps["object"], TRUTH)


def crossings_of_rows(polygon: np.ndarray, height: int) -> list[list[float]]:
    """Return, for each row of pixels, where the edges cross the line through the centers of its pixels."""
    rows: list[list[float]] = [[] for _ in range(height)]
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        for row, found in enumerate(rows):
            if (y1 > row + 0.5) != (y2 > row + 0.5):
                found.append((x2 - x1) * (row + 0.5 - y1) / (y2 - y1) + x1)
    return rows


coordinates = st.integers(-30_000, 50_000).map(lambda value: value / 1000)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9))
@example([(0.0, 0.0), (0.0, 7.0), (9.0, 7.0)])
def test_the_pixels_of_a_polygon(points):
    """A second implementation; pixels whose center lies on an edge, where rounding decides, may be either."""
    polygon = np.array(points)
    found = np.zeros((13, 17), bool)
    fill_polygon(found, polygon)
    for row, crossings in enumerate(crossings_of_rows(polygon, 13)):
        for column in range(17):
            distances = [crossing - (column + 0.5) for crossing in crossings]
            if all(abs(distance) > 1e-6 for distance in distances):
                assert found[row, column] == sum(distance > 0 for distance in distances) % 2, (row, column)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1, "file_name": "../3.jpg"}]}, r"lists photo '\.\./3\.jpg', which is not there"),
        ({"categories": []}, "annotation 0: its category is not listed"),
        ({"annotations": None}, "has no list of annotations"),
        ({"annotations": [{"image_id": 1, "category_id": 4, "segmentation": [[0, 0, 1, 1, 2, "x"]]}]}, "needs three"),
        ({"images": [{"id": 1, "file_name": "1.jpg", "width": 10**6, "height": 10**6}]}, "not numbers of pixels"),
        ({"images": [{"id": 1, "file_name": 3.5}]}, "its file_name is missing or is not text"),
    ],
)
def test_damaged_coco(tmp_path, changes, message):
    coco(tmp_path, **changes)
    with pytest.raises(UpernetError, match=message):
        open_train(tmp_path, format="coco", photos="images", shapes="coco.json")


@pytest.mark.parametrize(
    "lengths",
    [{"size": [8, 13], "counts": [104]}, {"size": [10**9, 10**9], "counts": [0]}, {"size": 3}, {"counts": "~"}],
)
def test_damaged_run_lengths(tmp_path, lengths):
    coco(tmp_path, annotations=[{"image_id": 1, "category_id": 4, "segmentation": lengths}])
    source = open_train(tmp_path, format="coco", photos="images", shapes="coco.json")
    with pytest.raises(UpernetError, match=r"coco\.json: 1\.jpg: .*export"):
        source[0]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["1.jpg", 1, 4]),
    lambda inner: (
        st.lists(inner, max_size=7)
        | st.dictionaries(
            st.sampled_from(["size", "counts", "id", "name", "image_id", "category_id"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
KEYS = ("id", "file_name", "width", "height", "name", "image_id", "category_id", "segmentation")


@given(st.sampled_from(["images", "annotations", "categories"]), st.sampled_from(KEYS), anything)
@settings(deadline=None)
def test_no_value_of_a_coco_file_does_more_than_an_error(tmp_path_factory, list_name, key, value):
    root = tmp_path_factory.mktemp("coco")
    coco(root)
    values = json.loads((root / "coco.json").read_text())
    values[list_name][0][key] = value
    write_json(root / "coco.json", values)
    try:
        source = open_train(root, format="coco", photos="images", shapes="coco.json")
        maps = [sample.maps["object"].shape for sample in source]
    except UpernetError:
        return
    assert set(maps) == {(8, 12)}


def test_xml_that_declares_entities_is_refused(tmp_path):
    cvat(tmp_path, BOX, head='<!DOCTYPE x [<!ENTITY a "aaaa">]>')
    with pytest.raises(UpernetError, match="declares XML entities"):
        open_train(tmp_path, format="cvat", photos="images", shapes="annotations.xml")


def test_annotations_of_another_format_or_none(tmp_path):
    coco(tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for format, shapes in (("cvat", "coco.json"), ("labelme", "."), ("coco", "none.json"), ("coco", "deep.json")):
        with pytest.raises(UpernetError):
            open_train(tmp_path, format=format, photos="images", shapes=shapes)
