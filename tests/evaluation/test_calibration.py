"""Tests of upernet.evaluation.calibration and .confidences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.color_network import BLUE, GREEN, RED, TAXONOMY, VIOLET, color_network, halves, recipe, save

from upernet.errors import UpernetError
from upernet.evaluation.calibration import Calibration, calibrate
from upernet.evaluation.confidences import UNCHANGED, count_confidences, shown_labels
from upernet.evaluation.thresholds import SHOW_NOTHING, smallest_threshold
from upernet.recipe import CalibrationSpec, Recipe


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


def calibration(targets: dict[str, float], negatives: dict[str, Any], **sources: Any) -> Recipe:
    spec = CalibrationSpec.model_validate({"target_precision": targets, "negatives": negatives})
    return recipe(**sources).model_copy(update={"calibration": spec})


def level_thresholds(settings: Recipe, data: Path) -> dict[str, float | None]:
    """Return the threshold of each level without a temperature."""
    targets = settings.calibration.target_precision
    found = count_confidences(color_network(), settings, data, "held_back", tuple(targets))
    return {
        level: smallest_threshold(found[level].mixture()[UNCHANGED].sum(0), target) for level, target in targets.items()
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save(tmp_path / "materials" / "held" / "brick" / "a.png", halves(RED, RED))
    save(tmp_path / "materials" / "held" / "brick" / "b.png", halves((0, 51, 0), RED))
    save(tmp_path / "scenes" / "held" / "night" / "a.png", halves((51, 0, 0), BLUE))
    return tmp_path


def test_image_labels_stand_for_every_pixel(data: Path) -> None:
    settings = calibration({"material": 0.8}, {}, materials=MATERIALS)
    # 24 of 32 pixels are right; those that are not are dim.
    assert level_thresholds(settings, data) == {"material": ABOVE_DIM}
    settings = calibration({"material": 0.75}, {}, materials=MATERIALS)
    assert level_thresholds(settings, data) == {"material": 0}


def test_what_is_shown_of_negatives_is_wrong(data: Path) -> None:
    save(data / "scenes" / "held" / "night" / "a.png", halves((51, 0, 0), (51, 0, 0)))
    save(data / "materials" / "held" / "brick" / "b.png", halves(RED, RED))
    sources = {"materials": MATERIALS, "scenes": SCENES}
    alone = level_thresholds(calibration({"material": 0.9}, {}, **sources), data)
    assert alone == {"material": 0}
    both = level_thresholds(calibration({"material": 0.9}, {"material": ("scenes",)}, **sources), data)
    assert both == {"material": ABOVE_DIM} and DIM < 0.787 < SURE


def test_a_target_out_of_reach_shows_nothing_and_says_so(data: Path) -> None:
    settings = calibration({"material": 0.9}, {"material": ("scenes",)}, materials=MATERIALS, scenes=SCENES)
    with pytest.warns(UserWarning, match="material: no threshold reaches the target precision of 0.9; none of its"):
        found = calibrate(color_network(), settings, data)
    assert found.thresholds == {"material": SHOW_NOTHING} and found.class_thresholds == {"material": {}}
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
    thresholds = level_thresholds(settings, tmp_path)
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
    assert level_thresholds(settings, data) == {"scene": 0, "part": 0}
    # A scene that is more probably wrong is not shown.
    assert calibrate(color_network(), settings, data).thresholds == {"scene": 0.5, "part": 0}


def test_no_targets_need_no_data(tmp_path: Path) -> None:
    assert calibrate(color_network(), recipe(materials=MATERIALS), tmp_path) == Calibration()


def test_mistakes_are_explained(data: Path) -> None:
    def run(targets: dict[str, float], negatives: dict[str, Any], **sources: Any) -> None:
        calibrate(color_network(), calibration(targets, negatives, **sources), data)

    with pytest.raises(UpernetError, match=r"negatives\.material: there is no source 'streets'; name one of materials"):
        run({"material": 0.9}, {"material": ("streets",)}, materials=MATERIALS)
    with pytest.raises(UpernetError, match=r"negatives\.material: source scenes holds no photos back"):
        run({"material": 0.9}, {"material": ("scenes",)}, materials=MATERIALS, scenes={**SCENES, "splits": {}})
    with pytest.raises(UpernetError, match=r"negatives\.material\.materials: .*'bricks'.*brick"):
        run({"material": 0.9}, {"material": {"materials": ("bricks",)}}, materials=MATERIALS)
    with pytest.raises(UpernetError, match=r"precision\.texture: no held-back photos have labels"):
        run({"texture": 0.9}, {}, materials=MATERIALS)
    with pytest.raises(UpernetError, match="no photos of split 'held_back'"):
        run({"material": 0.9}, {}, materials={**MATERIALS, "splits": {}})


def test_some_classes_are_absent_in_a_source(data: Path) -> None:
    """The photo of the scene shows dim brick and bright water, and has no material labels of its own."""
    sources = {"materials": MATERIALS, "scenes": SCENES}

    def share_right(classes: Any) -> torch.Tensor:
        settings = calibration({"material": 0.5}, {"material": {"scenes": classes}}, **sources)
        found = count_confidences(color_network(), settings, data, "held_back", ("material",))["material"]
        return found.mixture()[UNCHANGED].sum(2)

    brick, _, water = share_right(["brick"]).tolist()
    assert brick == [pytest.approx(0.5), pytest.approx(0.75)]  # 8 of the 16 pixels of the scene are wrong
    assert water == [0, 0]
    assert share_right("*").equal(share_right(["brick", "wood", "water"]))
    assert share_right(["wood"]).sum() == pytest.approx(1)


def test_classes_that_are_absent_are_wrong_beside_labels_too(tmp_path: Path) -> None:
    source = {"kind": "mask_folder", "path": "o/{split}", "level": "object", "splits": {"held_back": "held"}}
    source["classes"] = {"0": "sky", "1": "tree"}
    save(tmp_path / "o" / "held" / "images" / "a.png", halves(RED, BLUE))
    truth = np.full((16, 16), 255, dtype=np.uint8)
    truth[:, :8] = 0
    save(tmp_path / "o" / "held" / "annotations" / "a.png", truth)

    def counted(negatives: Any) -> list[list[float]]:
        settings = calibration({"object": 0.5}, {"object": negatives}, o=source)
        found = count_confidences(color_network(), settings, tmp_path, "held_back", ("object",))["object"]
        return found.mixture()[UNCHANGED].sum(2).tolist()

    assert counted({}) == [[0, 1], [0, 0], [0, 0]]
    assert counted({"o": ["person"]}) == [[0, 0.5], [0, 0], [0.5, 0]]  # no photo of it shows a person


def test_one_of_several_classes_is_right(tmp_path: Path) -> None:
    """A source that does not tell trees from people, and says so."""
    source = {"kind": "mask_folder", "path": "o/{split}", "level": "object", "splits": {"held_back": "held"}}
    source["classes"] = {"0": "sky", "1": ["tree", "person"]}
    save(tmp_path / "o" / "held" / "images" / "a.png", halves(GREEN, BLUE))
    save(tmp_path / "o" / "held" / "annotations" / "a.png", np.full((16, 16), 1, dtype=np.uint8))
    settings = calibration({"object": 0.5}, {}, o=source)
    found = count_confidences(color_network(), settings, tmp_path, "held_back", ("object",))["object"]
    assert found.mixture()[UNCHANGED].sum(2).tolist() == [[0, 0], [0, 0.5], [0, 0.5]]


def test_the_same_photos_give_the_same_thresholds(data: Path) -> None:
    settings = calibration({"material": 0.75}, {}, materials=MATERIALS)
    first = calibrate(color_network(), settings, data)
    assert calibrate(color_network(), settings, data) == first
    assert first.thresholds == {"material": 0} and first.temperatures == {"material": 2}  # it is sure, and often wrong
