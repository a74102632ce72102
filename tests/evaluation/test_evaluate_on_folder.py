"""Tests of upernet.evaluation.loop on a folder of flat colors, for which every score is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.color_network import (
    BLUE,
    GREEN,
    RED,
    TAXONOMY,
    VIOLET,
    ColorNetwork,
    color_network,
    halves,
    recipe,
    save,
)

from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult, TestTimeAugmentation, evaluate
from upernet.recipe import Recipe

OBJECT_PHOTO_CLASSES = {"sky": "sky", "tree": "tree", "person": "person"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Create sources for objects, parts, scenes and materials, but none for textures."""
    objects = tmp_path / "objects" / "test"
    save(objects / "images" / "a.png", halves(RED, GREEN))
    truth = np.zeros((16, 16), dtype=np.uint8)  # sky; the right half is red's by mistake in its upper part
    truth[8:, 8:] = 1
    truth[:2] = 255
    save(objects / "annotations" / "a.png", truth)

    parts = tmp_path / "parts" / "test"
    save(parts / "images" / "a.png", halves(BLUE, VIOLET))
    truth = np.full((16, 16), 1, dtype=np.uint8)
    truth[:, 8:] = 2
    truth[8:, :8] = 2
    save(parts / "annotations" / "a.png", truth)
    # The model sees no person in the right half of this one.
    save(parts / "images" / "b.png", halves(BLUE, GREEN))
    save(parts / "annotations" / "b.png", np.full((16, 16), 1, dtype=np.uint8))
    for folder in (objects, parts):
        names = list(OBJECT_PHOTO_CLASSES) if folder == objects else ["null", "head", "body"]
        (folder.parent / "labels.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(names)))

    for name, color, label in (("a", RED, "beach"), ("b", GREEN, "beach"), ("c", BLUE, "night")):
        save(tmp_path / "scenes" / "test" / label / f"{name}.png", halves(color, color, 20))
    photo = halves(RED, RED)
    photo[:, 4:] = 200, 255, 0
    save(tmp_path / "materials" / "test" / "brick" / "a.png", photo)
    save(tmp_path / "materials" / "test" / "wood" / "a.png", halves(GREEN, RED))
    return tmp_path


SOURCES: dict[str, dict[str, Any]] = {
    "objects": {
        "kind": "mask_folder",
        "path": "objects/{split}",
        "level": "object",
        "implies": {"scene": "forest", "material": {"tree": "wood"}},
    },
    "parts": {
        "kind": "mask_folder",
        "path": "parts/{split}",
        "level": "part",
        "classes": {"null": None, "head": "head", "body": "body"},
        "implies": {"object": {"*": "person"}},
    },
    "scenes": {"kind": "label_folder", "path": "scenes/{split}", "level": "scene", "test_resize": {"short_side": 8}},
    "materials": {"kind": "label_folder", "path": "materials/{split}", "level": "material"},
    "textures": {"kind": "label_folder", "path": "textures/{split}", "level": "texture"},
}


@pytest.fixture
def result(data: Path) -> EvaluationResult:
    return evaluate(color_network(), recipe(**SOURCES), data)


def test_scores_of_objects_are_those_worked_out_by_hand(result: EvaluationResult) -> None:
    scores = result["object"]
    # 224 known pixels: truth sky 160 (112 left, 48 right), tree 64; predicted sky 112, tree 112.
    assert scores["pixel_accuracy"] == pytest.approx(176 / 224)
    assert scores["per_class"]["sky"] == {
        "iou": pytest.approx(112 / 160),
        "accuracy": pytest.approx(112 / 160),
        "pixels": 160,
        # One pixel at the edges of the photo and of the tree: 42 in the truth, 34 in the prediction, 29 in both.
        "boundary_iou": pytest.approx(29 / (42 + 34 - 29)),
    }
    assert scores["per_class"]["tree"]["iou"] == pytest.approx(64 / 112)
    assert scores["miou"] == pytest.approx((112 / 160 + 64 / 112) / 2)
    assert scores["mean_accuracy"] == pytest.approx((112 / 160 + 1) / 2)
    assert scores["classes_absent"] == ["person"]


def test_scores_of_parts_are_those_worked_out_by_hand(result: EvaluationResult) -> None:
    scores = result["part"]
    # Photo a: truth head 64, body 192; predicted head 128, body 128. Photo b: truth head 256, predicted head 128.
    head, body = (64 + 128) / (320 + 256 - 192), 128 / 192
    assert scores["per_class"]["person/head"]["iou"] == pytest.approx(head)
    assert scores["per_class"]["person/body"]["iou"] == pytest.approx(body)
    assert scores["miou"] == pytest.approx((head + body) / 2)
    # Given the person, green pixels read head as well (no red in them).
    assert scores["miou_given_object"] == pytest.approx(((64 + 256) / (320 + 384 - 320) + body) / 2)


def test_image_labels(result: EvaluationResult) -> None:
    assert result["scene"]["top1"] == pytest.approx(2 / 3) and result["scene"]["top5"] == 1
    assert result["scene"]["per_class"]["beach"] == {"top1": 0.5, "top5": 1, "photos": 2}
    # Photo brick: mean red (1 + 3 * 200 / 255) / 4 against green 3 / 4. Photo wood: a draw, and brick comes first.
    assert result["material"]["top1"] == pytest.approx(1 / 2)
    assert "miou" not in result["material"]


def test_implied_labels_are_apart(result: EvaluationResult) -> None:
    weak = result["weak"]
    assert set(weak) == {"objects", "parts"} and set(weak["objects"]) == {"scene", "material"}
    assert weak["objects"]["scene"]["per_class"]["forest"]["photos"] == 1
    assert weak["objects"]["material"]["pixel_accuracy"] == 1  # tree -> wood, and green is both
    assert weak["parts"]["object"]["per_class"]["person"]["accuracy"] == pytest.approx(384 / 512)


def test_layout(result: EvaluationResult) -> None:
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result == result.to_dict()
    levels = {"scene", "object", "part", "material"}
    assert set(result) == levels | {"sources", "weak", "split", "photos", "skipped", "testing"}
    assert result["testing"] == {"scales": [1.0], "flip": False, "window": None, "stride": None}
    assert result["split"] == "test" and result["skipped"] == ["textures"]
    assert result["photos"] == {"objects": 1, "parts": 2, "scenes": 3, "materials": 2}
    assert {name: list(levels) for name, levels in result["sources"].items()} == {
        "objects": ["object"],
        "parts": ["part"],
        "scenes": ["scene"],
        "materials": ["material"],
    }
    assert result["sources"]["objects"]["object"] == result["object"]


def test_a_source_that_is_not_scored_counts_for_itself_only(data: Path) -> None:
    sources = {**SOURCES, "materials": {**SOURCES["materials"], "scored": False}}
    result = evaluate(color_network(), recipe(**sources), data)
    assert "material" not in result and result["sources"]["materials"]["material"]["top1"] == 0.5


def test_supervision_says_how_a_photo_is_read(data: Path) -> None:
    # Three quarters of the photo called brick are more green than red, though less surely so than the rest is red.
    sources = {"materials": {**SOURCES["materials"], "supervision": "broadcast"}}
    result = evaluate(color_network(), recipe(**sources), data)
    assert result["material"]["per_class"]["brick"]["top1"] == 0


def test_photos_are_brought_to_the_test_size_and_masks_are_not(data: Path) -> None:
    model = cast(ColorNetwork, color_network())
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    sources = {"objects": {**SOURCES["objects"], "test_resize": {"short_side": 64}}, "scenes": SOURCES["scenes"]}
    result = evaluate(cast(Any, model), recipe(**sources), data)
    assert sizes == [(1, 3, 64, 64)] + [(1, 3, 8, 8)] * 3
    assert result["object"]["per_class"]["sky"]["pixels"] == 160


def test_every_level_is_scored_with_test_time_augmentation(data: Path, result: EvaluationResult) -> None:
    # The network reads single pixels of flat colors, so a mirrored pass gives the same result.
    mirrored = evaluate(color_network(), recipe(**SOURCES), data, tta=TestTimeAugmentation(flip=True))
    assert mirrored["testing"]["flip"] and not result["testing"]["flip"]
    assert mirrored.to_dict() | {"testing": None} == result.to_dict() | {"testing": None}


def test_only_annotated_levels_are_computed_and_the_mode_is_kept(data: Path) -> None:
    model = cast(ColorNetwork, color_network())
    model.train()
    steps: list[tuple[str, int, int]] = []
    result = evaluate(
        cast(Any, model), recipe(scenes=SOURCES["scenes"]), data, progress=lambda *step: steps.append(step)
    )
    assert set(model.asked) == {("scene",)} and model.training
    assert steps == [("scenes", 0, 3), ("scenes", 1, 3), ("scenes", 2, 3), ("scenes", 3, 3)]
    assert list(result["sources"]) == ["scenes"]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("split", ["test", "held_back"])
def test_nothing_to_score_is_an_error(tmp_path: Path, split: Any) -> None:
    with pytest.raises(UpernetError, match=f"no photos of split '{split}'.*objects/{{split}}"):
        evaluate(color_network(), recipe(**SOURCES), tmp_path, split=split)


def test_levels_that_the_model_lacks_are_an_error(data: Path) -> None:
    model = cast(ColorNetwork, color_network())
    values = TAXONOMY.to_dict()
    values["levels"] = {"scene": values["levels"]["scene"]}
    model.taxonomy = type(TAXONOMY).from_dict(values)
    with pytest.raises(UpernetError, match="object"):
        evaluate(cast(Any, model), recipe(objects=SOURCES["objects"]), data)


def test_a_recipe_without_sources_is_an_error(tmp_path: Path) -> None:
    empty: Recipe = recipe()
    with pytest.raises(UpernetError, match="none"):
        evaluate(color_network(), empty, tmp_path)
