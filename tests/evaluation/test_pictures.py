"""Tests of upernet.evaluation.pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.color_network import TAXONOMY
from PIL import Image

from upernet.evaluation import ConfusionMatrix
from upernet.evaluation.figures import RIGHT, WRONG, draw_confusion, write_confusion_csv
from upernet.evaluation.pictures import draw_comparison

OBJECTS, PARTS = TAXONOMY.level("object"), TAXONOMY.level("part")


def matrix(counts: list[list[int]]) -> ConfusionMatrix:
    found = ConfusionMatrix(len(counts))
    found.counts = torch.tensor(counts).view(len(counts), -1)
    return found


def pixels_near(picture: Image.Image, color: tuple[int, int, int], tolerance: int = 40) -> int:
    distance = np.abs(np.asarray(picture).astype(int) - color).max(axis=2)
    return int((distance < tolerance).sum())


def test_the_diagonal_is_blue_and_confusions_are_orange() -> None:
    right = draw_confusion(matrix([[10, 0, 0], [0, 10, 0]]), ["sky", "tree"])
    wrong = draw_confusion(matrix([[0, 10, 0], [10, 0, 0]]), ["sky", "tree"])
    assert pixels_near(right, RIGHT) > 2000 and pixels_near(right, WRONG) == 0
    assert pixels_near(wrong, WRONG) > 2000 and pixels_near(wrong, RIGHT) == 0


def test_unsure_has_a_column_only_where_it_occurs() -> None:
    counts = np.eye(20, 21, dtype=int)
    names = [f"class {c}" for c in range(20)]
    without = draw_confusion(matrix(counts.tolist()), names)
    counts[0, 20] = 1
    assert draw_confusion(matrix(counts.tolist()), names).width > without.width


def test_classes_without_pixels_are_left_out() -> None:
    some = draw_confusion(matrix([[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]), ["sky", "tree", "never"])
    every = draw_confusion(matrix([[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 1, 0]]), ["sky", "tree", "never"])
    assert some.height < every.height


@pytest.mark.parametrize("classes", [1, 2, 11, 40, 150])
def test_any_number_of_classes_can_be_drawn(classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes + 1))
    names = ["a name that goes on for a good deal longer than expected", *(f"class_{c}" for c in range(1, classes))]
    picture = draw_confusion(matrix(counts.tolist()), names)
    assert picture.width < 3000 and picture.height < 3000
    # Nothing touches the border.
    frame = np.asarray(picture)
    assert all((side == 255).all() for side in (frame[:8], frame[-8:], frame[:, :8], frame[:, -8:]))


def test_nothing_counted_can_be_drawn() -> None:
    assert draw_confusion(ConfusionMatrix(3), ["sky", "tree", "road"]).width > 100


def test_the_csv_holds_the_counts(tmp_path: Path) -> None:
    path = tmp_path / "confusion.csv"
    write_confusion_csv(path, matrix([[5, 1, 2], [0, 7, 0]]), ['sky, "blue"', "tree"])
    assert list(csv.reader(path.open(newline=""))) == [
        ["true class", 'sky, "blue"', "tree", "unsure"],
        ['sky, "blue"', "5", "1", "2"],
        ["tree", "0", "7", "0"],
    ]
    write_confusion_csv(path, matrix([[5, 1, 0], [0, 7, 0]]), ["sky", "tree"])
    assert path.read_text() == "true class,sky,tree\nsky,5,1\ntree,0,7\n"


def test_wrong_pixels_are_orange_in_the_last_panel() -> None:
    photo = Image.new("RGB", (400, 300), (90, 120, 150))
    truth = np.zeros((300, 400), np.int16)
    truth[:, 200:] = 1
    same = draw_comparison(photo, truth, truth, OBJECTS)
    other = draw_comparison(photo, truth, np.zeros_like(truth), OBJECTS)
    swatch = pixels_near(same, WRONG)
    assert pixels_near(other, WRONG) - swatch == pytest.approx(520 * 390 / 2, rel=0.02)
    assert same.width == other.width == 4 * 520 + 3 * 16 + 2 * 20


def test_unknown_pixels_are_never_wrong() -> None:
    photo = Image.new("RGB", (40, 30), (90, 120, 150))
    truth = np.full((30, 40), -1, np.int16)
    picture = draw_comparison(photo, truth, np.ones_like(truth), OBJECTS)
    assert pixels_near(picture, WRONG) < 500  # the swatch


def test_a_part_that_is_predicted_where_there_is_none_is_wrong() -> None:
    photo = Image.new("RGB", (40, 30), (90, 120, 150))
    nothing = np.zeros((30, 40), np.int16)
    picture = draw_comparison(photo, nothing, np.ones_like(nothing), PARTS)
    assert pixels_near(picture, WRONG) > 100_000


@pytest.mark.parametrize("size", [(1, 1), (900, 7), (7, 900), (2000, 1500)])
def test_photos_and_maps_of_any_size(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(-1, 3, (50, 60)).astype(np.int64)
    picture = draw_comparison(Image.new("RGB", size), labels, labels[:, ::-1], OBJECTS)
    assert picture.width < 2300 and picture.height < 800
