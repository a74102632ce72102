"""Tests of upernet.evaluation.compare, compared with a plain bootstrap loop and with the scores of evaluations."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from upernet.errors import UpernetError
from upernet.evaluation import ConfusionMatrix, EvaluationResult, TestTimeAugmentation
from upernet.evaluation.compare import compare
from upernet.evaluation.photo_counts import Confusion, Kind, Photo, PhotoCounter
from upernet.recipe import Split

NAMES = ("sky", "tree", "never")
PHOTOS = 12


def truths(seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 2, 60) for _ in range(PHOTOS)]


def spoiled(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return labels of which about this share is wrong."""
    random = np.random.default_rng(seed)
    return np.where(random.random(truth.shape) < share, 1 - truth, truth)


def evaluation(
    share: float,
    *,
    seed: int = 1,
    names: tuple[str, ...] = NAMES,
    kind: Kind = "pixels",
    split: Split = "test",
    truth: list[np.ndarray] | None = None,
    photos: int = PHOTOS,
    groups: tuple[int, ...] = (0, 0, 0),
) -> EvaluationResult:
    counter = PhotoCounter()
    for number, labels in enumerate((truth or truths())[:photos]):
        matrix = ConfusionMatrix(len(names))
        matrix.update(torch.from_numpy(spoiled(labels, share, seed + number)), torch.from_numpy(labels))
        photo = Photo("streets", number, f"streets/{number}.jpg", True)
        counter.add(photo, {("object", kind): Confusion(matrix, names, groups)})
    testing = TestTimeAugmentation()
    return EvaluationResult({}, {}, {}, split, {"streets": photos}, (), testing, counter.result())


def plain_bootstrap(first: float, second: float, resamples: int, seed: int) -> tuple[list[float], list[list[float]]]:
    """Return the differences of the mIoU and of each class, one draw after another, from the label maps themselves."""
    random = np.random.default_rng(seed)
    labels = truths()
    predictions = [[spoiled(truth, share, 1 + n) for n, truth in enumerate(labels)] for share in (first, second)]
    totals: list[float] = []
    classes: list[list[float]] = []
    for _ in range(resamples):
        times = random.multinomial(PHOTOS, np.full(PHOTOS, 1 / PHOTOS))
        drawn = [n for n in range(PHOTOS) for _ in range(times[n])]
        truth = np.concatenate([labels[n] for n in drawn])
        ious: list[list[float]] = []
        for prediction in predictions:
            found = np.concatenate([prediction[n] for n in drawn])
            ious.append([((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in (0, 1)])
        classes.append([ious[1][c] - ious[0][c] for c in (0, 1)])
        totals.append(float(np.mean(ious[1]) - np.mean(ious[0])))
    return totals, classes


def test_agrees_with_a_plain_bootstrap() -> None:
    (level,) = compare(evaluation(0.2), evaluation(0.1), resamples=200, seed=3).levels
    totals, classes = plain_bootstrap(0.2, 0.1, 200, 3)
    assert level.total.interval == pytest.approx(np.quantile(totals, (0.025, 0.975)))
    for c, name in enumerate(("sky", "tree")):
        by_class = [draw[c] for draw in classes]
        assert level.per_class[name].interval == pytest.approx(np.quantile(by_class, (0.025, 0.975)))


def test_values_are_those_of_the_whole_evaluations() -> None:
    first, second = evaluation(0.3), evaluation(0.1)
    (level,) = compare(first, second, resamples=100).levels
    for result, value in ((first, level.total.first), (second, level.total.second)):
        assert result.counts is not None
        matrix = result.counts.levels[0].matrix()
        assert value == pytest.approx(matrix.mean_iou([0, 1]))
    assert level.photos == PHOTOS and level.metric == "miou"
    never = level.per_class["never"]
    assert (never.first, never.difference, never.interval, never.is_significant) == (None, None, None, False)


def test_a_large_difference_is_significant_and_none_is_not() -> None:
    (level,) = compare(evaluation(0.4), evaluation(0.1)).levels
    assert level.total.is_significant and cast(float, level.total.difference) > 0
    (same,) = compare(evaluation(0.2), evaluation(0.2)).levels
    assert same.total.interval == (0, 0) and not same.total.is_significant
    (close,) = compare(evaluation(0.2, seed=1), evaluation(0.2, seed=99)).levels
    assert not close.total.is_significant


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    """The models are equally good: about 5 % of the intervals may leave out 0, and percentile intervals a few more."""
    left_out = 0
    for run in range(60):
        truth = truths(run)
        first = evaluation(0.2, seed=1000 * run, truth=truth)
        second = evaluation(0.2, seed=1000 * run + 500, truth=truth)
        left_out += compare(first, second, resamples=200).levels[0].total.is_significant
    assert left_out <= 12


def test_the_same_seed_gives_the_same_intervals() -> None:
    results = [compare(evaluation(0.3), evaluation(0.2), resamples=150, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


def test_image_labels_are_compared_by_top1() -> None:
    (level,) = compare(evaluation(0.5, kind="labels"), evaluation(0.1, kind="labels")).levels
    assert level.metric == "top1" and level.title == "object (image labels)"
    assert cast(float, level.total.first) < cast(float, level.total.second)


def test_parts_are_averaged_per_object_and_the_background_is_left_out() -> None:
    # Groups as of parts: class 0 is "none", and two objects have a part each.
    (level,) = compare(evaluation(0.3, groups=(-1, 4, 7)), evaluation(0.1, groups=(-1, 4, 7))).levels
    assert list(level.per_class) == ["tree", "never"]
    assert level.total.first == level.per_class["tree"].first


def test_photos_are_listed_from_the_largest_loss_to_the_largest_gain() -> None:
    (level,) = compare(evaluation(0.2), evaluation(0.3, seed=50), resamples=100).levels
    changes = [second - first for _, first, second in level.per_photo]
    assert changes == sorted(changes) and len(changes) == PHOTOS


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (evaluation(0.1, split="val"), "of different splits, test and val; evaluate both on the same one"),
        (evaluation(0.1, photos=11), r"different photos \(1 are in one of them only, such as streets/11\.jpg\)"),
        (evaluation(0.1, names=("sky", "shrub", "never")), r"different classes \('tree', 'shrub' only in one\)"),
        (evaluation(0.1, names=("tree", "sky", "never")), r"different classes \(in another order\)"),
        (evaluation(0.1, truth=truths(5)), r"the labels of streets/0\.jpg differ"),
        (evaluation(0.1, kind="labels"), "have no level in common"),
        (replace(evaluation(0.1), counts=None), "do not tell what was counted in each photo"),
    ],
)
def test_evaluations_of_different_things_are_refused_in_one_sentence(other: EvaluationResult, message: str) -> None:
    with pytest.raises(UpernetError, match=message) as caught:
        compare(evaluation(0.2), other)
    assert "\n" not in str(caught.value)
