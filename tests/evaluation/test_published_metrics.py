"""Tests of upernet.evaluation.metrics against published ADE20K metrics: absent classes and unknown pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.shared import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from upernet.data.sample import Sample
from upernet.evaluation.scores import Scores
from upernet.taxonomy import IGNORE, Taxonomy

GOLDEN = REFERENCE / "golden" / "metrics.npz"


def score(classes: int, photos: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Score pairs of prediction and truth (-1: unknown), by way of logits."""
    names = [{"name": f"class {c}"} for c in range(classes)]
    taxonomy = Taxonomy.from_dict({"name": "c", "description": "c", "levels": {"object": {"classes": names}}})
    scores = Scores(taxonomy)
    for prediction, truth in photos:
        logits = F.one_hot(torch.from_numpy(prediction).long(), classes).permute(2, 0, 1)[None].float()
        mask = tv_tensors.Mask(torch.from_numpy(truth.astype(np.int16)))
        photo = tv_tensors.Image(torch.zeros(3, *truth.shape, dtype=torch.uint8))
        scores.update({"object": logits}, Sample(photo, {"object": mask}))
    return scores.result()["object"].to_dict()


def test_equals_the_published_evaluation_with_a_reduced_zero_label() -> None:
    if not GOLDEN.is_file():
        pytest.skip("needs the reference facts in ../shared/reference/golden/metrics.npz")
    golden = np.load(GOLDEN)
    classes = len(golden["out_IoU"])
    photos = []
    for number in range(3):
        raw = golden[f"gt{number}"].astype(int)
        photos.append((golden[f"pred{number}"], np.where((raw == 0) | (raw == 255), IGNORE, raw - 1)))
    result = score(classes, photos)
    assert result["pixel_accuracy"] == pytest.approx(float(golden["out_aAcc"]), rel=1e-6)
    for c, values in enumerate(result["per_class"].values()):
        for metric, expected in (("iou", golden["out_IoU"][c]), ("accuracy", golden["out_Acc"][c])):
            if np.isnan(expected):
                assert values[metric] is None
            else:
                assert values[metric] == pytest.approx(float(expected), rel=1e-6)
    summary = [round(100 * result[metric], 2) for metric in ("pixel_accuracy", "miou", "mean_accuracy")]
    assert summary == pytest.approx(golden["out_summary"].tolist(), abs=1e-3)
    assert len(result["classes_absent"]) == int(np.isnan(golden["out_IoU"]).sum()) == 1


@st.composite
def predictions(draw: st.DrawFn) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Photos of different sizes; classes that are absent from the truth, the prediction or both; unknown pixels."""
    classes = draw(st.integers(2, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    in_truth, in_prediction = (
        random.choice(classes, draw(st.integers(1, classes)), replace=False) for _ in ("truth", "prediction")
    )
    unknown = draw(st.sampled_from([0.0, 0.3, 0.9]))
    photos = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        truth = random.choice(in_truth, shape)
        truth[random.random(shape) < unknown] = IGNORE
        photos.append((random.choice(in_prediction, shape), truth))
    photos[0][1][0, 0] = in_truth[0]  # something is labeled
    return classes, photos


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_equals_the_definitions_pixel_by_pixel(case: tuple[int, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    classes, photos = case
    pixels = [
        (int(guess), int(label))
        for prediction, truth in photos
        for guess, label in zip(prediction.flat, truth.flat, strict=True)
        if label != IGNORE
    ]
    ious, accuracies = [], []
    for c in range(classes):
        both = sum(guess == c and label == c for guess, label in pixels)
        either = sum(guess == c or label == c for guess, label in pixels)
        labeled = sum(label == c for _, label in pixels)
        ious += [both / either] if either else []
        accuracies += [both / labeled] if labeled else []
    result = score(classes, photos)
    assert result["miou"] == pytest.approx(sum(ious) / len(ious))
    assert result["mean_accuracy"] == pytest.approx(sum(accuracies) / len(accuracies))
    assert result["pixel_accuracy"] == pytest.approx(sum(guess == label for guess, label in pixels) / len(pixels))
    assert len(result["classes_absent"]) == classes - len(ious)
