"""Tests of upernet.training.reporting, upernet.training.curves and upernet.training.charts: the pictures of a run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from upernet.recipe import load_recipe
from upernet.training import train
from upernet.training.charts import SIZE, Line, draw_chart, smoothed, thinned
from upernet.training.curves import draw_curves
from upernet.training.history import Validation
from upernet.training.run_folder import CONFUSION, CURVES, PREDICTIONS, REPORT


class Tags(HTMLParser):
    """Collects the tags of a page and the addresses that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]


class Pictures:
    """A logger that keeps the names of pictures."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.closed = False

    def scalars(self, values, iteration):
        pass

    def picture(self, name, picture, iteration):
        assert isinstance(picture, Image.Image)
        self.seen.append((name, iteration))

    def close(self):
        self.closed = True


@pytest.mark.slow
def test_a_run_shows_what_it_does(recipe_file, data, tmp_path):
    """Every source has photos held back; one of them has a hostile name, which the page shows as text."""
    hostile = data / "streets" / "train" / "images" / "<img src=x>.png"
    for folder in ("images", "annotations"):
        (data / "streets" / "train" / folder / "0.png").rename(hostile.parents[1] / folder / hostile.name)
    sources = {name: source | {"held_back": 0.6} for name, source in recipe_file.recipe["sources"].items()}
    content = recipe_file.recipe | {"sources": sources}
    content["training"] = content["training"] | {"validation": {"every": 5, "metric": "object.miou"}}
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(content))
    logger, run = Pictures(), tmp_path / "<run>"
    train(load_recipe(tmp_path / "shown.yaml"), data, run, device="cpu", quiet=True, loggers=[logger])
    for name in (CURVES, CONFUSION, PREDICTIONS):
        with Image.open(run / name) as picture:
            assert picture.width > 300 and np.asarray(picture).std() > 1
    assert {name for name, _ in logger.seen} == {"curves", "confusion", "predictions"} and logger.closed
    assert [iteration for name, iteration in logger.seen if name == "curves"] == [5, 10]
    text = (run / REPORT).read_text()
    page = Tags(text)
    assert page.tags.count("img") == 3 and "script" not in page.tags and "run" not in page.tags
    assert all(address.startswith("data:image/") for address in page.loaded)
    assert "Run &lt;run&gt;" in text and "The run has done all of its 10 iterations." in text
    assert re.search(r"object mIoU</td><td>0\.\d{3}", text)
    # The folder is a recipe of its own, for the same data.
    again = load_recipe(run / "recipe.yaml")
    assert again.data == str(data) and again.training is not None
    assert [stage.iterations for stage in again.training.stages] == [7, 3]


@pytest.mark.slow
def test_a_run_of_image_labels_shows_photos_with_labels(recipe_file, data, tmp_path):
    places = recipe_file.recipe["sources"]["places"] | {"splits": {"train": "train", "val": "test"}}
    stage = {"name": "s", "iterations": 2, "sources": ["places"], "learning_rate": 0.001}
    content = recipe_file.recipe | {"sources": {"places": places}, "training": {"workers": 0, "stages": [stage]}}
    (tmp_path / "places.yaml").write_text(yaml.safe_dump(content))
    train(load_recipe(tmp_path / "places.yaml"), data, tmp_path / "run", device="cpu", quiet=True)
    for name in (CONFUSION, PREDICTIONS):
        with Image.open(tmp_path / "run" / name) as picture:
            assert np.asarray(picture).std() > 1


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), max_size=20), max_size=3),
    st.booleans(),
)
def test_any_lines_can_be_drawn(values: list[list[float]], log_x: bool) -> None:
    lines = [Line(f"line {n}", list(enumerate(ys, 1)), dots=True) for n, ys in enumerate(values)]
    marked = next((line.points[0] for line in lines if line.points), None)
    assert draw_chart("a title", lines, log_x=log_x, marked=marked).size == SIZE


def test_a_line_goes_where_its_points_are() -> None:
    """A constant line lies on one row of pixels; a rising one goes from the lower left to the upper right."""

    def rows_of_line(points) -> np.ndarray:
        pixels = np.asarray(draw_chart("", [Line("x", points)]))[40:260, 75:640].astype(int)
        return np.argwhere(abs(pixels - np.array([31, 119, 180])).sum(2) < 60)

    constant, rising = rows_of_line([(0, 1), (9, 1)]), rows_of_line([(0, 0), (9, 1)])
    assert np.ptp(constant[:, 0]) <= 3 and np.ptp(constant[:, 1]) > 500
    left, right = rising[rising[:, 1] < 20], rising[rising[:, 1] > 540]
    assert left[:, 0].min() > right[:, 0].max() + 150


def test_smoothing_and_thinning_keep_what_matters() -> None:
    constant = [(float(x), 5.0) for x in range(100)]
    assert [y for _, y in smoothed(constant, 0.9)] == pytest.approx([5.0] * 100)
    assert len(thinned([(x, x) for x in range(2501)], 1000)) <= 1001
    assert thinned([(x, x) for x in range(2501)], 1000)[-1] == (2500, 2500)


def test_a_run_without_iterations_has_curves(tmp_path: Path) -> None:
    assert draw_curves([], [], "", None).width == SIZE[0]
    assert draw_curves([], [Validation(1, "s", {"object.miou": 0.5})], "object.miou", 1).height == 3 * SIZE[1]
