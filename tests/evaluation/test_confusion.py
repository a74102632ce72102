"""Tests of upernet.evaluation.confusion, compared with torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from upernet.evaluation import ConfusionMatrix


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Draw a number of classes, a prediction, and a truth with unknown pixels; often, some classes do not occur."""
    num_classes = draw(st.integers(2, 6))
    occurring = draw(st.integers(1, num_classes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
    prediction = random.integers(0, draw(st.integers(1, num_classes)), shape)
    truth = random.integers(-1, occurring, shape)
    return num_classes, torch.from_numpy(prediction), torch.from_numpy(truth)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(label_maps())
def test_agrees_with_torchmetrics(maps: tuple[int, torch.Tensor, torch.Tensor]) -> None:
    num_classes, prediction, truth = maps
    matrix = ConfusionMatrix(num_classes)
    for one_prediction, one_truth in zip(prediction, truth, strict=True):
        matrix.update(one_prediction, one_truth)
    peer = MulticlassConfusionMatrix(num_classes, ignore_index=-1)(prediction, truth)
    assert torch.equal(matrix.counts[:, :-1], peer)
    if not (truth >= 0).any():
        assert math.isnan(matrix.mean_iou()) and math.isnan(matrix.pixel_accuracy())
        return
    occurs = (matrix.support + matrix.predicted) > 0
    iou = MulticlassJaccardIndex(num_classes, average="none", ignore_index=-1)(prediction, truth)
    assert matrix.iou()[occurs].numpy() == pytest.approx(iou[occurs].numpy(), abs=1e-6)
    assert matrix.iou()[~occurs].isnan().all()
    macro = MulticlassJaccardIndex(num_classes, average="macro", ignore_index=-1)(prediction, truth)
    assert matrix.mean_iou() == pytest.approx(float(macro), abs=1e-6)
    in_truth = matrix.support > 0
    recall = MulticlassAccuracy(num_classes, average="none", ignore_index=-1)(prediction, truth)
    assert matrix.accuracy()[in_truth].numpy() == pytest.approx(recall[in_truth].numpy(), abs=1e-6)
    assert matrix.mean_accuracy() == pytest.approx(float(recall[in_truth].mean()), abs=1e-6)
    micro = MulticlassAccuracy(num_classes, average="micro", ignore_index=-1)(prediction, truth)
    assert matrix.pixel_accuracy() == pytest.approx(float(micro), abs=1e-6)


def test_an_absent_class_does_not_count_and_a_wrongly_predicted_one_counts_as_zero() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 0]))
    assert matrix.mean_iou() == 1
    matrix.update(torch.tensor([1]), torch.tensor([0]))
    assert matrix.mean_iou() == pytest.approx((4 / 5 + 0) / 2)
    assert matrix.mean_accuracy() == pytest.approx(4 / 5)


def test_means_take_chosen_classes() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]))
    assert matrix.mean_iou([1, 2]) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert matrix.pixel_accuracy([2]) == pytest.approx(1 / 2)
    assert math.isnan(matrix.mean_iou([]))


def test_a_pixel_without_prediction_is_missed_and_is_no_false_positive() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, -1, 1, 1]), torch.tensor([0, 0, 1, -1]))
    assert matrix.iou().tolist() == [0.5, 1.0]
    assert matrix.pixel_accuracy() == pytest.approx(2 / 3)
    assert matrix.support.tolist() == [2, 1] and matrix.predicted.tolist() == [1, 1]


def test_counts_more_pixels_than_float32_can() -> None:
    matrix = ConfusionMatrix(1)
    matrix.counts[0, 0] = 2**24
    matrix.update(torch.zeros(1, dtype=torch.int16), torch.zeros(1, dtype=torch.int16))
    assert matrix.support.item() == 2**24 + 1


def test_matrices_add_up() -> None:
    both, first, second = (ConfusionMatrix(2) for _ in range(3))
    for matrix in (both, first):
        matrix.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    for matrix in (both, second):
        matrix.update(torch.tensor([[1], [1]]), torch.tensor([[1], [0]]))
    first += second
    assert torch.equal(first.counts, both.counts)
    assert torch.equal(first.reduce().counts, both.counts)  # a single process


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (torch.tensor([0, 1]), torch.tensor([0]), "differ in shape"),
        (torch.tensor([3]), torch.tensor([0]), "prediction holds labels 3 to 3"),
        (torch.tensor([0]), torch.tensor([255]), "truth holds labels 255 to 255"),
        (torch.tensor([-2]), torch.tensor([0]), "prediction holds labels -2"),
    ],
)
def test_refuses_labels_that_cannot_be(prediction: torch.Tensor, truth: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).update(prediction, truth)
