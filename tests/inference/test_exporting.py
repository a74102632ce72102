"""Tests of upernet.inference.exporting: COCO, supervision, pandas and GeoJSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from helpers.painted_network import DOG, PERSON, TAXONOMY
from PIL import Image

from upernet import rle
from upernet.errors import UpernetError
from upernet.inference import LabelMap, Parse


def parse_of(path: str | None = "street.jpg") -> Parse:
    """Paint two persons, one with a hole, and a dog before the sky; the upper left quarter is of fabric."""
    labels = np.zeros((40, 60), np.int16)
    labels[5:15, 5:15] = PERSON
    labels[8:11, 8:11] = 0
    labels[20:24, 20:30] = PERSON
    labels[30:, 50:] = DOG
    fabric = np.full((40, 60), -1, np.int16)
    fabric[:20, :30] = 1
    parts = np.zeros((40, 60), np.int16)
    parts[5:7, 5:15] = 1
    maps = {}
    for level, values in (("object", labels), ("material", fabric), ("part", parts)):
        classes = TAXONOMY.levels[level]
        confidence = np.full(labels.shape, 0.75, np.float32)
        maps[level] = LabelMap(level, values, confidence, classes.names, classes.colors, classes.background)
    return Parse(Image.new("RGB", (60, 40)), maps, path=path)


def test_coco_with_run_lengths() -> None:
    parse = parse_of()
    dataset = json.loads(json.dumps(parse.to_coco()))
    assert dataset["images"] == [{"id": 1, "file_name": "street.jpg", "width": 60, "height": 40}]
    assert [category["name"] for category in dataset["categories"]] == ["sky", "road", "person", "dog"]
    assert [category["id"] for category in dataset["categories"]] == [1, 2, 3, 4]
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    total = np.zeros((40, 60), int)
    for annotation in dataset["annotations"]:
        mask = rle.decode(annotation["segmentation"])
        total += mask
        assert annotation["area"] == mask.sum() and annotation["score"] == 0.75
        assert (parse.object.labels[mask] == parse.object.label(names[annotation["category_id"]])).all()
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
    assert (total == 1).all()


def test_coco_with_polygons_and_other_levels() -> None:
    dataset = parse_of().to_coco(segmentation="polygon", min_area=50)
    person = next(annotation for annotation in dataset["annotations"] if annotation["category_id"] == 3)
    assert person["segmentation"] == [[5, 5, 15, 5, 15, 15, 5, 15]]
    parts = parse_of().to_coco("part")
    assert [(category["id"], category["name"]) for category in parts["categories"]] == [
        (1, "hair"),
        (2, "skin"),
        (3, "paw"),
    ]
    assert [annotation["category_id"] for annotation in parts["annotations"]] == [1]
    parse = parse_of()
    only_material = Parse(parse.photo, {"material": parse.material})
    assert only_material.to_coco()["categories"][0]["supercategory"] == "material"


def test_what_has_no_regions_is_refused() -> None:
    with pytest.raises(UpernetError, match="no level 'texture'"):
        parse_of().to_coco("texture")
    with pytest.raises(UpernetError, match="no dense level"):
        Parse(Image.new("RGB", (8, 8)), {}, {"scene": [("street", 1.0)]}).to_coco()


def test_other_segmentations_are_refused() -> None:
    with pytest.raises(UpernetError, match="segmentation 'polygons': choose from rle, polygon"):
        parse_of().to_coco(segmentation="polygons")  # pyright: ignore[reportArgumentType]


def test_geojson() -> None:
    collection = json.loads(json.dumps(parse_of().to_geojson(["object"])))
    assert collection["type"] == "FeatureCollection"
    persons = [feature for feature in collection["features"] if feature["properties"]["name"] == "person"]
    assert persons[0]["geometry"] == {
        "type": "MultiPolygon",
        "coordinates": [
            [
                [[5, 5], [15, 5], [15, 15], [5, 15], [5, 5]],
                [[8, 8], [8, 11], [11, 11], [11, 8], [8, 8]],
            ]
        ],
    }
    assert persons[0]["bbox"] == [5, 5, 15, 15]
    assert persons[0]["properties"] == {"level": "object", "name": "person", "area": 91, "mean_confidence": 0.75}
    levels = {feature["properties"]["level"] for feature in parse_of().to_geojson()["features"]}
    assert levels == {"object", "material", "part"}


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    export = {"pandas": parse_of().to_dataframe, "supervision": parse_of().to_supervision}[package]
    with pytest.raises(UpernetError, match=rf"{package} is not installed; run: pip install 'upernet\[{package}\]'\."):
        export()


def test_a_table_has_a_row_per_region() -> None:
    pytest.importorskip("pandas")
    table = parse_of().to_dataframe()
    assert list(table.groupby("level").size().items()) == [("material", 1), ("object", 5), ("part", 1)]
    shares = table[table.level == "object"].groupby("name").share.sum()
    assert shares.to_dict() == pytest.approx(parse_of().object.shares())
    dog = table[table.name == "dog"].iloc[0]
    assert (dog.path, dog.x0, dog.y0, dog.x1, dog.y1) == ("street.jpg", 50, 30, 60, 40)
    assert (dog.center_x, dog.center_y, dog.area) == (55, 35, 100)
    assert list(parse_of().to_dataframe(["part"]).name) == ["hair"]
    assert list(parse_of().to_dataframe(min_area=10**9).columns) == list(table.columns)


def test_detections_of_supervision() -> None:
    pytest.importorskip("supervision")
    parse = parse_of()
    found = parse.to_supervision(min_area=50)
    assert list(found.data["class_name"]) == ["sky", "dog", "person"]
    assert found.mask.shape == (3, 40, 60)
    np.testing.assert_array_equal(found.mask[1], parse.object.mask("dog"))
    assert found.xyxy[1].tolist() == [50, 30, 60, 40]
    assert len(parse.to_supervision(min_area=10**9)) == 0
