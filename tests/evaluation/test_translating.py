"""Tests of upernet.evaluation.translating: two label sets in one taxonomy, against labels that are mapped first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from upernet import ConfusionMatrix, EvaluationResult, Taxonomy, UpernetError
from upernet.evaluation import TestTimeAugmentation
from upernet.evaluation.compare import compare
from upernet.evaluation.photo_counts import Confusion, Photo, PhotoCounter
from upernet.evaluation.translating import in_taxonomy

FINE = ("sky", "armchair", "swivel chair", "road", "extra")
COARSE = ("road", "sky", "chair")
TARGET = Taxonomy.of_objects(["chair", "sky", "road", "extra"], "common")
TO_TARGET = {"sky": 1, "armchair": 0, "swivel chair": 0, "chair": 0, "road": 2, "extra": 3}
PHOTOS = 6


def labels(names: tuple[str, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, len(names), 80)


def as_coarse(fine: np.ndarray) -> np.ndarray:
    return np.array([COARSE.index("sky"), 2, 2, COARSE.index("road"), -1])[fine]


def evaluation(names: tuple[str, ...], truths: list[np.ndarray], predictions: list[np.ndarray]) -> EvaluationResult:
    counter = PhotoCounter()
    for number, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        matrix = ConfusionMatrix(len(names))
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        confusion = Confusion(matrix, names, (0,) * len(names))
        counter.add(Photo("room", number, f"room/{number}.jpg", True), {("object", "pixels"): confusion})
    return EvaluationResult({}, {}, {}, "test", {"room": PHOTOS}, (), TestTimeAugmentation(), counter.result())


@pytest.fixture
def both() -> tuple[EvaluationResult, EvaluationResult]:
    truths = [labels(FINE, seed) for seed in range(PHOTOS)]
    fine = evaluation(FINE, truths, [labels(FINE, 100 + seed) for seed in range(PHOTOS)])
    coarse = evaluation(COARSE, [as_coarse(each) for each in truths], [labels(COARSE, 200 + n) for n in range(PHOTOS)])
    return fine, coarse


def test_scores_are_those_of_labels_that_are_mapped_first(both: tuple[EvaluationResult, EvaluationResult]):
    (level,) = compare(*in_taxonomy(*both, TARGET)[:2], resamples=100).levels
    table = np.array([TO_TARGET[name] for name in FINE])
    truth = np.concatenate([table[labels(FINE, seed)] for seed in range(PHOTOS)])
    prediction = np.concatenate([table[labels(FINE, 100 + seed)] for seed in range(PHOTOS)])
    known = truth != TO_TARGET["extra"]  # the coarse evaluation does not have it
    for name in ("chair", "sky", "road"):
        a, b = truth[known] == TO_TARGET[name], prediction[known] == TO_TARGET[name]
        assert level.per_class[name].first == pytest.approx((a & b).sum() / (a | b).sum())
    assert set(level.per_class) == {"chair", "sky", "road"}
    values = [each.first or 0.0 for each in level.per_class.values()]
    assert level.total.first == pytest.approx(sum(values) / 3)


def test_a_table_says_what_names_do_not(both: tuple[EvaluationResult, EvaluationResult]):
    table = {"object": {"sky": None}}
    (level,) = compare(*in_taxonomy(*both, TARGET, table)[:2], resamples=100).levels
    assert set(level.per_class) == {"chair", "road"}
    with pytest.raises(UpernetError, match="the object 'skyy', which neither evaluation has"):
        in_taxonomy(*both, TARGET, {"object": {"skyy": None}})


def test_what_is_not_compared_is_said(both: tuple[EvaluationResult, EvaluationResult]):
    (remark,) = in_taxonomy(*both, TARGET)[2]
    assert "lacks the object: extra." in remark
    fine, coarse = both
    truth = [np.where(labels(FINE, seed) == 0, 3, labels(FINE, seed)) for seed in range(PHOTOS)]
    other = evaluation(FINE, truth, [labels(FINE, 100 + seed) for seed in range(PHOTOS)])
    _, differing = in_taxonomy(other, coarse, TARGET)[2]
    skies = sum(int((labels(FINE, seed) == 0).sum()) for seed in range(PHOTOS))
    assert "different numbers of true pixels" in differing and f"sky (0 and {skies:,})" in differing
    assert in_taxonomy(fine, fine, TARGET)[2] == ()


def test_what_has_no_class_in_common_is_said(both: tuple[EvaluationResult, EvaluationResult]):
    with pytest.raises(UpernetError, match="no class that both evaluations score"):
        in_taxonomy(*both, Taxonomy.of_objects(["lamp"]))
