"""Tests of upernet.evaluation.metrics: pixel and image-label scores, compared with torchmetrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.color_network import TAXONOMY
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchvision import tv_tensors

from upernet.data.sample import Sample
from upernet.errors import UpernetError
from upernet.evaluation.metrics import LabelScore, PixelScore
from upernet.evaluation.scores import Scores
from upernet.taxonomy import Level

PHOTO = tv_tensors.Image(torch.zeros(3, 8, 8, dtype=torch.uint8))


def mask(rows: list[list[int]]) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.tensor(rows, dtype=torch.int16))


def values(score: PixelScore | LabelScore) -> dict[str, Any]:
    result = score.result()
    assert result is not None
    return result.to_dict()


def level(name: str, num_classes: int, background: bool = False, known_background: bool = False) -> Level:
    names = tuple(f"class {index}" for index in range(num_classes))
    return Level(name, names, ((0, 0, 0),) * num_classes, background, known_background)


@settings(max_examples=25, deadline=None)
@given(st.booleans(), st.integers(0, 2**31))
def test_pixel_score_agrees_with_torchmetrics(background: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    prediction = torch.from_numpy(random.integers(0, 4, (6, 7)))
    truth = torch.from_numpy(random.integers(-1, 4, (6, 7)))
    score = PixelScore(level("material", 4, background))
    score.update(prediction, truth)
    result = values(score)
    known = truth.clone()
    if background:
        known[known == 0] = -1
    iou = MulticlassJaccardIndex(4, average="none", ignore_index=-1)(prediction, known)
    first = 1 if background else 0
    assert result["miou"] == pytest.approx(float(iou[first:].mean()), abs=1e-6)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=-1)(prediction, known)
    assert result["pixel_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
    assert list(result["per_class"]) == [f"class {c}" for c in range(first, 4)]


def test_what_is_predicted_on_a_known_background_is_a_false_positive() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [-1, 0, 2, 2]])
    prediction = torch.tensor([[1, 0, 1, 0], [1, 2, 2, 2]])
    score = PixelScore(level("texture", 3, background=True, known_background=True))
    score.update(prediction, truth)
    result = values(score)
    assert list(result["per_class"]) == ["class 1", "class 2"]
    assert result["per_class"]["class 1"]["iou"] == pytest.approx(1 / 3)
    assert result["per_class"]["class 2"]["iou"] == pytest.approx(2 / 3)
    assert result["pixel_accuracy"] == pytest.approx(3 / 4)
    unknown = PixelScore(level("texture", 3, background=True))
    unknown.update(prediction, truth)
    assert values(unknown)["miou"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_known_background_does_not_compete_for_image_labels() -> None:
    score = LabelScore(level("texture", 3, background=True, known_background=True))
    score.update(torch.tensor([0.7, 0.1, 0.2]), 2, probabilities=True)
    score.update(torch.tensor([0.7, 0.1, 0.2]), 0, probabilities=True)
    assert values(score)["top1"] == 1 and values(score)["per_class"]["class 2"]["photos"] == 1


def test_label_score_counts_photos() -> None:
    score = LabelScore(level("scene", 7))
    ranking = torch.tensor([0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    for truth in (0, 0, 4, 5, -1):
        score.update(ranking, truth)
    result = values(score)
    assert result["top1"] == 2 / 4 and result["top5"] == 3 / 4
    assert result["per_class"]["class 4"] == {"top1": 0, "top5": 1, "photos": 1}
    assert result["per_class"]["class 6"] == {"top1": None, "top5": None, "photos": 0}


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(1, 12), st.integers(0, 2**31))
def test_label_score_agrees_with_torchmetrics(num_classes: int, photos: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(photos, num_classes, generator=generator)
    truth = torch.randint(0, num_classes, (photos,), generator=generator)
    score = LabelScore(level("scene", num_classes))
    for row, label in zip(scores, truth.tolist(), strict=True):
        score.update(row, label)
    for metric, k in (("top1", 1), ("top5", min(5, num_classes))):
        peer = MulticlassAccuracy(num_classes, average="micro", top_k=k)(scores, truth)
        assert values(score)[metric] == pytest.approx(float(peer), abs=1e-6)


def test_the_background_is_no_candidate_for_a_photo() -> None:
    score = LabelScore(level("material", 3, background=True))
    score.update(torch.tensor([9.0, 1.0, 2.0]), 2)
    score.update(torch.tensor([9.0, 1.0, 2.0]), 0)
    result = values(score)
    assert result["top1"] == 1 and "top5" not in result
    assert result["per_class"] == {"class 1": {"top1": None, "photos": 0}, "class 2": {"top1": 1, "photos": 1}}


def test_a_level_with_maps_and_image_labels_has_the_metrics_of_both() -> None:
    scores = Scores(TAXONOMY)
    logits = {"material": torch.tensor([2.0, 1.0, 0.0]).view(1, 3, 1, 1)}
    scores.update(logits, Sample(PHOTO, maps={"material": mask([[0, 0], [1, -1]])}))
    scores.update(logits, Sample(PHOTO, labels={"material": 0}))
    result = {name: metrics.to_dict() for name, metrics in scores.result().items()}
    assert list(result) == ["material"]
    assert result["material"]["pixel_accuracy"] == pytest.approx(2 / 3) and result["material"]["top1"] == 1
    # A map of two rows is all boundary, so that the Boundary IoU is the IoU.
    iou = pytest.approx(2 / 3)
    brick = {"iou": iou, "boundary_iou": iou, "accuracy": 1, "pixels": 2, "top1": 1, "photos": 1}
    assert result["material"]["per_class"]["brick"] == brick
    assert result["material"]["classes_absent"] == ["water"]


def test_implied_labels_are_scored_apart() -> None:
    sample = Sample(
        PHOTO,
        maps={"object": mask([[0, 1]]), "material": mask([[1, 1]])},
        labels={"scene": 2},
        implied=frozenset({"material", "scene"}),
    )
    logits = {
        "object": torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1),
        "material": torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1),
        "scene": torch.tensor([[0.0, 0.0, 1.0]]),
    }
    annotated, implied = Scores(TAXONOMY), Scores(TAXONOMY)
    annotated.update(logits, sample)
    implied.update(logits, sample, implied=True)
    assert list(annotated.result()) == ["object"]
    assert annotated.result()["object"].to_dict()["pixel_accuracy"] == 0.5
    assert list(implied.result()) == ["scene", "material"]
    assert implied.result()["scene"].to_dict()["top1"] == 1


def test_parts_without_objects_are_refused_with_the_fix() -> None:
    logits = {"part": torch.zeros(1, 3, 1, 1)}
    with pytest.raises(UpernetError, match=r"photo\.jpg: parts are annotated without the objects .*implies"):
        Scores(TAXONOMY).update(logits, Sample(PHOTO, maps={"part": mask([[1]])}, key="photo.jpg"))
