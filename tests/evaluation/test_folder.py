"""Tests of upernet.evaluation.folder, .examples, .tables and .page: what an evaluation leaves behind."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.color_network import BLUE, GREEN, RED, VIOLET, color_network, halves, recipe, save
from PIL import Image

from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult, TestTimeAugmentation, evaluate
from upernet.evaluation.examples import photo_accuracy, typical_photos, worst_photos
from upernet.evaluation.folder import read_evaluation, write_evaluation
from upernet.evaluation.photo_counts import LevelCounts
from upernet.evaluation.subject import Subject

ODD = "<b>&\x1b[31m \u202e.png"
"""A file name that would color a terminal, break a page and turn text around."""
SOURCES: dict[str, dict[str, Any]] = {
    "objects": {"kind": "mask_folder", "path": "objects/{split}", "level": "object"},
    "people": {
        "kind": "mask_folder",
        "path": "people/{split}",
        "level": "part",
        "implies": {"object": {"*": "person"}},
    },
    "scenes": {"kind": "label_folder", "path": "scenes/{split}", "level": "scene"},
    "unscored": {"kind": "label_folder", "path": "unscored/{split}", "level": "scene", "scored": False},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Create objects with 4 photos, of which the model gets 100, 75, 50 and 0 %; parts; and scenes with one mistake."""
    objects = tmp_path / "objects"
    for number, wrong_rows in enumerate((0, 4, 8, 16)):
        name = ODD if number == 3 else f"{number}.png"
        save(objects / "test" / "images" / name, halves(RED, RED))
        truth = np.zeros((16, 16), np.uint8)
        truth[:wrong_rows] = 1
        save(objects / "test" / "annotations" / name, truth)
    (objects / "labels.txt").write_text("0\tsky\n1\ttree\n")
    save(tmp_path / "people" / "test" / "images" / "a.png", halves(BLUE, VIOLET))
    truth = np.ones((16, 16), np.uint8)
    truth[:, 12:] = 2
    save(tmp_path / "people" / "test" / "annotations" / "a.png", truth)
    (tmp_path / "people" / "labels.txt").write_text("1\thead\n2\tbody\n")
    for folder in ("scenes", "unscored"):
        save(tmp_path / folder / "test" / "beach" / "right.png", halves(RED, RED))
        save(tmp_path / folder / "test" / "beach" / "wrong.png", halves(GREEN, GREEN))
    return tmp_path


@pytest.fixture
def result(data: Path) -> EvaluationResult:
    return evaluate(color_network(), recipe(**SOURCES), data)


def level_of(result: EvaluationResult, name: str) -> LevelCounts:
    assert result.counts is not None
    return next(level for level in result.counts.levels if level.level == name)


def keys(result: EvaluationResult, photos: list[int]) -> list[str]:
    assert result.counts is not None
    return [Path(result.counts.photos[photo].key).name for photo in photos]


def test_photos_are_chosen_by_their_share_of_right_pixels(result: EvaluationResult) -> None:
    objects, counts = level_of(result, "object"), result.counts
    assert counts is not None
    assert photo_accuracy(objects, counts.scored(objects)).tolist() == [1, 0.75, 0.5, 0]
    assert keys(result, worst_photos(counts, objects, 2)) == [ODD, "2.png"]
    assert keys(result, worst_photos(counts, objects, 9)) == [ODD, "2.png", "1.png"]
    assert set(keys(result, typical_photos(counts, objects, 2))) == {"1.png", "2.png"}
    assert len(typical_photos(counts, objects, 9)) == 4
    # The photos of a source that is not scored are not chosen.
    assert keys(result, worst_photos(counts, level_of(result, "scene"), 9)) == ["wrong.png"]


class References(HTMLParser):
    """Collects the tags of a page, and what it refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_folder_shows_everything(data: Path, result: EvaluationResult, tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    subject = Subject(color_network(), recipe(**SOURCES), data)
    page = write_evaluation(folder, result, "Evaluation of <colors>", subject)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "scores.json",
        "photos.npz",
        "per_class.csv",
        "photos.csv",
        "index.html",
        *(f"{kind}-{level}.png" for kind in ("confusion", "calibration") for level in ("object", "part", "scene")),
        *(f"confusion-{level}.csv" for level in ("object", "part", "scene")),
        *(f"worst-object/0{number}.jpg" for number in (1, 2, 3)),
        "worst-part/01.jpg",
        "worst-scene/01.jpg",
    }
    text = page.read_text(encoding="utf-8")
    assert "Evaluation of &lt;colors&gt;" in text and "&lt;b&gt;&amp;\\x1b[31m \\u202e.png" in text
    assert "\x1b" not in text and "\u202e" not in text
    parsed = References()
    parsed.feed(text)
    assert "b" not in parsed.tags and parsed.tags.count("img") == 3 * 2 + 5
    assert all(source.startswith("data:image/") for source in parsed.sources)  # nothing is loaded from elsewhere
    for path in folder.rglob("*.[jp][pn]g"):
        with Image.open(path) as picture:
            picture.load()


def test_an_evaluation_can_be_read_again(result: EvaluationResult, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "evaluation", result, "colors")
    again = read_evaluation(tmp_path / "evaluation")
    assert again.to_dict() == result.to_dict()
    assert again.counts is not None and result.counts is not None and again.counts.photos == result.counts.photos
    assert not list(tmp_path.glob("evaluation/worst-*"))


def test_a_second_evaluation_replaces_the_worst_photos(data: Path, result: EvaluationResult, tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    save(folder / "worst-object" / "09.jpg", halves(RED, RED))
    write_evaluation(folder, result, "colors", Subject(color_network(), recipe(**SOURCES), data))
    assert not (folder / "worst-object" / "09.jpg").exists()


def test_tables_list_classes_and_photos(result: EvaluationResult, tmp_path: Path) -> None:
    write_evaluation(tmp_path, result, "colors")
    classes = list(csv.DictReader((tmp_path / "per_class.csv").open(newline="", encoding="utf-8")))
    sky = next(row for row in classes if row["class"] == "sky")
    # 4 photos of 256 pixels; all are predicted sky, of which 0, 64, 128 and 256 are trees.
    assert (sky["true"], sky["predicted"], sky["correct"], sky["photos"]) == ("576", "1024", "576", "3")
    assert float(sky["precision"]) == pytest.approx(576 / 1024) and float(sky["recall"]) == 1
    assert float(sky["f1"]) == pytest.approx(2 * 576 / (576 + 1024)) and 0 < float(sky["boundary_iou"]) < 1
    head = next(row for row in classes if row["class"] == "person/head")
    assert (head["level"], head["true"], head["correct"], head["boundary_iou"]) == ("part", "192", "128", "")
    assert not any(row["class"].endswith("/none") for row in classes)
    photos = list(csv.DictReader((tmp_path / "photos.csv").open(newline="", encoding="utf-8")))
    assert [row["accuracy"] for row in photos if row["level"] == "object"] == ["1.0", "0.75", "0.5", "0.0"]
    wrong = [row for row in photos if row["photo"].endswith("wrong.png")]
    assert [(row["source"], row["true"], row["predicted"]) for row in wrong] == [
        ("scenes", "beach", "forest"),
        ("unscored", "beach", "forest"),
    ]
    assert any("\\x1b[31m \\u202e.png" in row["photo"] for row in photos)


def test_worst_photos_are_drawn_with_the_augmentation_of_the_evaluation(data: Path, tmp_path: Path) -> None:
    settings = recipe(**SOURCES)
    result = evaluate(color_network(), settings, data, tta=TestTimeAugmentation((1.0, 2.0), flip=True))
    write_evaluation(tmp_path / "evaluation", result, "colors", Subject(color_network(), settings, data))
    assert len(list((tmp_path / "evaluation").glob("worst-*/*.jpg"))) == 5


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_folders_of_something_else_are_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UpernetError, match=r"upernet evaluate"):
        read_evaluation(tmp_path)


def test_scores_without_counts_cannot_be_written(result: EvaluationResult, tmp_path: Path) -> None:
    with pytest.raises(UpernetError, match="evaluate the model again"):
        write_evaluation(tmp_path, EvaluationResult.from_dict(result.to_dict()), "colors")
    assert not (tmp_path / "scores.json").exists()
