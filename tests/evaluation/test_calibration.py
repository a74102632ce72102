"""Tests of upernet.evaluation.calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.color_network import BLUE, GREEN, RED, TAXONOMY, VIOLET, color_network, halves, recipe, save

from upernet.errors import UpernetError
from upernet.evaluation.calibration import SHOW_NOTHING, calibrate, shown_labels, smallest_threshold, tally
from upernet.recipe import CalibrationSpec, Recipe


def pairs(*pairs: tuple[float, bool]) -> torch.Tensor:
    confidence, right = zip(*pairs, strict=True)
    return tally(torch.tensor(confidence, dtype=torch.float64), torch.tensor(right))


def threshold(target: float, labeled: Sequence[torch.Tensor], negative: Sequence[torch.Tensor] = ()) -> float | None:
    return smallest_threshold(list(labeled), list(negative), target)


def test_the_smallest_threshold_that_reaches_the_target() -> None:
    source = pairs((0.3, False), (0.5, True), (0.7, False), (0.9, True), (0.95, True))
    assert threshold(0.6, [source]) == 0  # 3 of 5
    assert threshold(0.75, [source]) == pytest.approx(0.301)  # 3 of the 4 above 0.3
    assert threshold(0.9, [source]) == pytest.approx(0.701)
    assert threshold(1.0, [source]) == pytest.approx(0.701)


def test_a_threshold_shows_the_pixels_that_reach_it() -> None:
    assert threshold(1.0, [pairs((0.25, False), (0.5, True))]) == pytest.approx(0.251)
    assert threshold(1.0, [pairs((0.999, False), (1.0, True))]) == 1


def test_out_of_reach() -> None:
    assert threshold(0.9, [pairs((0.4, True), (0.8, False))]) is None
    assert threshold(0.9, [torch.zeros(2, 1001, dtype=torch.int64)]) is None


def test_sources_count_equally_whatever_their_size() -> None:
    large = pairs(*[(0.5, True)] * 90)
    small = pairs((0.5, False), (0.9, True))
    # All shown: (1 + 1/2) / 2 = 0.75, not 91 / 92.
    assert threshold(0.75, [large, small]) == 0
    assert threshold(0.76, [large, small]) == pytest.approx(0.501)


def test_negatives_together_count_as_much_as_labels_together() -> None:
    labeled = [pairs((0.6, True), (0.9, True))]
    negative = [pairs((0.2, False), (0.95, False)), pairs(*[(0.7, False)] * 50)]
    assert threshold(0.5, labeled, negative) == 0  # 1 / (1 + 1)
    assert threshold(0.55, labeled, negative) == pytest.approx(0.201)  # 1 / (1 + 3/4)
    assert threshold(0.6, labeled, negative) == pytest.approx(0.701)  # 1/2 / (1/2 + 1/4)
    assert threshold(0.7, labeled, negative) is None


def test_agrees_with_a_plain_search() -> None:
    random = np.random.default_rng(1)
    confidence = random.integers(0, 1001, 300) / 1000
    right = random.random(300) < confidence
    expected = next(
        t / 1000 for t in range(1001) if (shown := confidence >= t / 1000 - 1e-9).any() and right[shown].mean() >= 0.8
    )
    # Half a step away from the borders between steps, where rounding decides.
    counts = tally(torch.from_numpy(confidence + 0.0005), torch.from_numpy(right))
    assert threshold(0.8, [counts]) == pytest.approx(expected)


def test_parts_are_shown_inside_the_predicted_object() -> None:
    # Pixels: person with head, person without a listed part, tree.
    objects = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [5.0, 5.0, 0.0]]).reshape(1, 3, 1, 3)
    parts = torch.tensor([[0.0, 4.0, 0.0], [2.0, 0.0, 9.0], [0.0, 0.0, 0.0]]).reshape(1, 3, 1, 3)
    (label, confidence), shown = shown_labels({"object": objects, "part": parts}, "part", TAXONOMY)
    assert label.tolist() == [[1, 0, 0]] and shown.tolist() == [[True, False, False]]
    assert float(confidence[0, 0]) == pytest.approx(float(torch.tensor([0.0, 2.0, 0.0]).softmax(0)[1]))


MATERIALS = {
    "kind": "label_folder",
    "path": "materials/{split}",
    "level": "material",
    "splits": {"held_back": "held"},
}
SCENES = {"kind": "label_folder", "path": "scenes/{split}", "level": "scene", "splits": {"held_back": "held"}}
SURE = float(torch.tensor([10.0, 0.0, 0.0]).softmax(0)[0])
DIM = float(torch.tensor([10 * 51 / 255, 0.0, 0.0]).softmax(0)[0])
ABOVE_DIM = pytest.approx(0.787)  # the next threshold


def calibration(targets: dict[str, float], negatives: dict[str, tuple[str, ...]], **sources: Any) -> Recipe:
    spec = CalibrationSpec.model_validate({"target_precision": targets, "negatives": negatives})
    return recipe(**sources).model_copy(update={"calibration": spec})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save(tmp_path / "materials" / "held" / "brick" / "a.png", halves(RED, RED))
    save(tmp_path / "materials" / "held" / "brick" / "b.png", halves((0, 51, 0), RED))
    save(tmp_path / "scenes" / "held" / "night" / "a.png", halves((51, 0, 0), BLUE))
    return tmp_path


def test_image_labels_stand_for_every_pixel(data: Path) -> None:
    settings = calibration({"material": 0.8}, {}, materials=MATERIALS)
    # 24 of 32 pixels are right; those that are not are dim.
    assert calibrate(color_network(), settings, data) == {"material": ABOVE_DIM}
    settings = calibration({"material": 0.75}, {}, materials=MATERIALS)
    assert calibrate(color_network(), settings, data) == {"material": 0}


def test_what_is_shown_of_negatives_is_wrong(data: Path) -> None:
    save(data / "scenes" / "held" / "night" / "a.png", halves((51, 0, 0), (51, 0, 0)))
    save(data / "materials" / "held" / "brick" / "b.png", halves(RED, RED))
    sources = {"materials": MATERIALS, "scenes": SCENES}
    alone = calibrate(color_network(), calibration({"material": 0.9}, {}, **sources), data)
    assert alone == {"material": 0}
    both = calibrate(color_network(), calibration({"material": 0.9}, {"material": ("scenes",)}, **sources), data)
    assert both == {"material": ABOVE_DIM} and DIM < both["material"] < SURE


def test_a_target_out_of_reach_shows_nothing_and_says_so(data: Path) -> None:
    settings = calibration({"material": 0.9}, {"material": ("scenes",)}, materials=MATERIALS, scenes=SCENES)
    with pytest.warns(UserWarning, match="material: no threshold reaches the target precision of 0.9"):
        assert calibrate(color_network(), settings, data) == {"material": SHOW_NOTHING}
    assert SHOW_NOTHING > 1


def test_pixel_maps_are_read_at_the_stride_of_the_logits(tmp_path: Path) -> None:
    source = {
        "kind": "mask_folder",
        "path": "objects/{split}",
        "level": "object",
        "splits": {"held_back": "held"},
        "classes": {"0": "sky", "1": "tree"},
        "implies": {"material": {"sky": "water", "tree": "wood"}},
    }
    save(tmp_path / "objects" / "held" / "images" / "a.png", halves((51, 0, 0), GREEN))
    truth = np.full((16, 16), 1, dtype=np.uint8)
    truth[:4] = 255
    save(tmp_path / "objects" / "held" / "annotations" / "a.png", truth)
    settings = calibration({"object": 0.5, "material": 0.51}, {}, objects=source)
    # Known: 12 pixels of the 4 x 4 logits, 6 of them right and sure, 6 wrong and dim.
    thresholds = calibrate(color_network(), settings, tmp_path)
    assert thresholds == {"object": 0, "material": ABOVE_DIM}


def test_scenes_count_per_photo_and_parts_per_pixel(data: Path) -> None:
    people = {
        "kind": "mask_folder",
        "path": "people/{split}",
        "level": "part",
        "splits": {"held_back": "held"},
        "implies": {"object": {"*": "person"}},
    }
    (data / "people").mkdir()
    (data / "people" / "labels.txt").write_text("1\thead\n2\tbody\n")
    save(data / "people" / "held" / "images" / "a.png", halves(BLUE, VIOLET))
    save(data / "people" / "held" / "annotations" / "a.png", np.full((16, 16), 1, dtype=np.uint8))
    settings = calibration({"scene": 1.0, "part": 0.5}, {}, scenes=SCENES, people=people)
    assert calibrate(color_network(), settings, data) == {"scene": 0, "part": 0}


def test_no_targets_need_no_data(tmp_path: Path) -> None:
    assert calibrate(color_network(), recipe(materials=MATERIALS), tmp_path) == {}


def test_mistakes_are_explained(data: Path) -> None:
    def run(targets: dict[str, float], negatives: dict[str, tuple[str, ...]], **sources: Any) -> None:
        calibrate(color_network(), calibration(targets, negatives, **sources), data)

    with pytest.raises(UpernetError, match=r"negatives\.material: there is no source 'streets'; name one of materials"):
        run({"material": 0.9}, {"material": ("streets",)}, materials=MATERIALS)
    with pytest.raises(UpernetError, match=r"negatives\.material: source scenes holds no photos back"):
        run({"material": 0.9}, {"material": ("scenes",)}, materials=MATERIALS, scenes={**SCENES, "splits": {}})
    with pytest.raises(UpernetError, match=r"precision\.texture: no held-back photos have labels"):
        run({"texture": 0.9}, {}, materials=MATERIALS)
    with pytest.raises(UpernetError, match="no photos of split 'held_back'"):
        run({"material": 0.9}, {}, materials={**MATERIALS, "splits": {}})


def test_the_same_photos_give_the_same_thresholds(data: Path) -> None:
    settings = calibration({"material": 0.55}, {"material": ("scenes",)}, materials=MATERIALS, scenes=SCENES)
    first = calibrate(color_network(), settings, data)
    assert calibrate(color_network(), settings, data) == first == {"material": ABOVE_DIM}
