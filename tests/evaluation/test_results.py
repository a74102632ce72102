"""Tests of upernet.evaluation.results: typed metrics, and the JSON that `upernet evaluate` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from upernet.errors import UpernetError
from upernet.evaluation import EvaluationResult, LabelMetrics, LevelMetrics, PixelMetrics, TestTimeAugmentation

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PIXELS = {
    "miou": 0.5,
    "pixel_accuracy": 0.75,
    "mean_accuracy": None,
    "classes_absent": ["wood"],
    "per_class": {"brick": {"iou": 0.5, "accuracy": 1.0, "pixels": 7}},
}
LABELS = {"top1": 0.25, "per_class": {"brick": {"top1": 0.25, "photos": 4}}}
SCENES = {
    "top1": 0.25,
    "top5": 1.0,
    "per_class": {
        "beach": {"top1": 0.25, "top5": 1.0, "photos": 4},
        "forest": {"top1": None, "top5": None, "photos": 0},
    },
}
HEAD = {"iou": 0.5, "accuracy": 0.5, "pixels": 9}
PARTS = {
    "miou": 0.5,
    "miou_with_background": 0.25,
    "pixel_accuracy": 0.5,
    "mean_accuracy": 0.5,
    "miou_given_object": 1.0,
    "classes_absent": [],
    "per_object": {
        "person": {
            "miou": 0.5,
            "miou_with_background": 0.25,
            "pixel_accuracy": 0.5,
            "mean_accuracy": 0.5,
            "miou_given_object": 1.0,
            "pixels": 9,
        }
    },
    "per_class": {"person/head": HEAD},
}
RESULT: dict[str, Any] = {
    "scene": SCENES,
    "part": PARTS,
    "sources": {"people": {"scene": SCENES, "part": PARTS}},
    "weak": {"people": {"material": PIXELS}},
    "split": "val",
    "photos": {"people": 4},
    "skipped": ["textures"],
    "testing": {"scales": [0.5, 1.0], "flip": True, "window": 48, "stride": 32},
}


@pytest.mark.parametrize("values", [PIXELS, LABELS, SCENES, PARTS])
def test_metrics_of_a_level_survive_a_round_trip(values: dict[str, Any]) -> None:
    result = LevelMetrics.from_dict(values).to_dict()
    assert result == values and list(result) == list(values)


def test_metrics_of_maps_and_image_labels_are_merged() -> None:
    metrics = LevelMetrics(PixelMetrics.model_validate(PIXELS), LabelMetrics.model_validate(LABELS))
    merged = {**PIXELS, **LABELS, "per_class": {"brick": {**PIXELS["per_class"]["brick"], "top1": 0.25, "photos": 4}}}
    assert metrics.to_dict() == merged
    assert LevelMetrics.from_dict(merged) == metrics


def test_a_result_survives_a_round_trip() -> None:
    result = EvaluationResult.from_dict(RESULT)
    assert result.to_dict() == RESULT and list(result.to_dict()) == list(RESULT)
    assert result.levels["scene"].labels == LabelMetrics.model_validate(SCENES)
    assert result.implied["people"]["material"].pixels == PixelMetrics.model_validate(PIXELS)
    assert result.testing == TestTimeAugmentation((0.5, 1.0), flip=True, window=48)


def test_a_result_reads_like_a_dictionary() -> None:
    result = EvaluationResult.from_dict(RESULT)
    assert result["part"]["miou"] == 0.5 and "object" not in result and len(result) == len(RESULT)
    assert dict(result) == RESULT and result == RESULT
    with pytest.raises(KeyError):
        result["object"]


@pytest.mark.parametrize("name", ["everyday", "camvid", "camvid_val"])
def test_results_in_the_documents_can_be_read(name: str) -> None:
    values = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert EvaluationResult.from_dict(values).to_dict() == values


def test_broken_results_are_refused() -> None:
    with pytest.raises(UpernetError, match="without weak, split; give the JSON"):
        EvaluationResult.from_dict({key: value for key, value in RESULT.items() if key not in ("weak", "split")})
    with pytest.raises(UpernetError, match="pixel_accuracy"):
        LevelMetrics.from_dict({"miou": 0.5, "per_class": {}})


@pytest.mark.parametrize(
    "change",
    [{"sources": []}, {"weak": {"a": []}}, {"photos": [1]}, {"skipped": None}, {"testing": {}}, {"object": None}],
)
def test_results_with_values_of_the_wrong_type_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UpernetError, match="give the JSON that `upernet evaluate` wrote"):
        EvaluationResult.from_dict({**RESULT, **change})
