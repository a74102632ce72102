"""Tests of masks in colors: upernet.data.sources.colors, upernet.data.images, upernet.data.check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.folders import TAXONOMY, save_mask, save_photo, source_spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from upernet.data.check import check
from upernet.data.images import read_color_mask
from upernet.data.sources import open_source
from upernet.data.sources.colors import UNLISTED, MaskColors
from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.taxonomy import IGNORE

COLORS = {"#804080": "Road", "0, 0, 0": None, "107 142 35": "bush"}
RGB = np.array([[(128, 64, 128), (0, 0, 0), (107, 142, 35)]] * 8, np.uint8).repeat(4, axis=1)
"""8 x 12: a third road, a third black, a third bush."""


def make(root: Path, count: int = 1, rgb: np.ndarray = RGB) -> None:
    for number in range(count):
        save_photo(root / "images" / f"{number}.jpg", seed=number)
        save_mask(root / "annotations" / f"{number}.png", rgb)


def open_train(root: Path, **settings):
    spec = source_spec(**{"path": ".", "colors": COLORS, "classes": {"bush": "tree"}, **settings})
    return open_source("mine", spec, TAXONOMY, root, "train")


def test_colors_become_labels(tmp_path):
    make(tmp_path)
    (tmp_path / "labels.txt").write_text("128 64 128 Road\n")  # is not about class numbers, so it is not read
    expected = np.repeat([[1, IGNORE, 2]] * 8, 4, axis=1)
    assert np.array_equal(open_train(tmp_path)[0].maps["object"], expected)
    palette = Image.fromarray(RGB).quantize(8)
    palette.save(tmp_path / "annotations" / "0.png")
    assert np.array_equal(open_train(tmp_path)[0].maps["object"], expected)


def test_colors_of_the_taxonomy(tmp_path):
    level = TAXONOMY.level("object")
    labels = np.arange(96).reshape(8, 12) % level.num_classes
    make(tmp_path, rgb=np.array(level.colors, np.uint8)[labels])
    assert np.array_equal(open_train(tmp_path, colors="taxonomy", classes={})[0].maps["object"], labels)


@given(arrays(np.uint8, (3, 4, 3)), st.sets(st.integers(0, 0xFFFFFF), min_size=1, max_size=5))
def test_values_name_the_color_of_each_pixel(rgb, listed):
    codes = sorted(listed | {int(rgb[0, 0, 0]) << 16 | int(rgb[0, 0, 1]) << 8 | int(rgb[0, 0, 2])})
    colors = MaskColors(np.array(codes, np.int32), {}, ())
    values = colors.values_of(rgb)
    assert values[0, 0] < UNLISTED
    for value, pixel in zip(values.ravel().tolist(), rgb.reshape(-1, 3).tolist(), strict=True):
        assert colors.name_of(value) == "#{:02x}{:02x}{:02x}".format(*pixel)


def test_a_color_that_is_not_listed_names_the_fix(tmp_path):
    other = RGB.copy()
    other[5, 7] = (1, 2, 3)
    make(tmp_path, rgb=other)
    with pytest.raises(UpernetError, match=r"row 5, column 7: color #010203 is not listed in sources\.mine\.colors"):
        open_train(tmp_path)[0]
    with pytest.raises(UpernetError, match=r"color #6b8e23 \(bush\) is not mapped to a class of level object"):
        open_train(tmp_path, classes={}, colors={**COLORS, "1,2,3": None})[0]


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ({"red": "road"}, r'colors\.red: is not a color; write it as "#rrggbb"'),
        ({"1,2,256": "road"}, "is not a color"),
        ({"1,2": "road"}, "is not a color"),
        ({"#010203": "road", "1,2,3": "tree"}, "the color is listed twice"),
        ({}, "lists no color"),
    ],
)
def test_mistakes_in_colors(tmp_path, colors, message):
    make(tmp_path)
    with pytest.raises(UpernetError, match=message):
        open_train(tmp_path, colors=colors)


def test_a_jpeg_has_blurred_colors(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(UpernetError, match="blurred colors"):
        read_color_mask(tmp_path / "a.png")


def test_the_same_problem_of_many_masks_is_reported_once(tmp_path):
    make(tmp_path, count=30)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TAXONOMY.to_dict()))
    source = {"kind": "mask_folder", "path": ".", "splits": {"train": ""}, "level": "object", "classes": {1: "road"}}
    recipe = {"description": "t", "taxonomy": "tiny.yaml", "model": {"backbone": "x"}, "sources": {"mine": source}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    report = check(load_recipe(tmp_path / "recipe.yaml"), tmp_path)
    assert [(problem.count, Path(problem.file).name) for problem in report.problems] == [(30, "0.png")]
    assert "list its colors under `colors`" in report.problems[0].text
