"""Tests of upernet.evaluation.part_score.PartScore on cases that can be worked out on paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from upernet.evaluation.part_score import PartScore
from upernet.taxonomy import Taxonomy

TAXONOMY = Taxonomy.from_dict(
    {
        "name": "pets",
        "description": "Two objects that share a part.",
        "levels": {
            "object": {"classes": [{"name": name} for name in ("grass", "cat", "car")]},
            "part": {
                "background": {"name": "none"},
                "classes": [{"name": name} for name in ("head", "tail", "door")],
                "of": {"cat": ["head", "tail"], "car": ["head", "door"]},
            },
        },
    }
)
GRASS, CAT, CAR = 0, 1, 2
NONE, HEAD, TAIL, DOOR = 0, 1, 2, 3
U = -1  # unknown


def logits(cat: list[int], car: list[int] | None = None) -> Tensor:
    """Logits of a one-row photo whose slices have these local argmaxes: 1 x 6 x 1 x W."""
    slices = [torch.nn.functional.one_hot(torch.tensor(local), 3).float() for local in (cat, car or cat)]
    return torch.cat(slices, dim=1).T[None, :, None]


def row(*labels: int) -> Tensor:
    return torch.tensor([labels], dtype=torch.int16)


def score(*photos: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Any]:
    score = PartScore(TAXONOMY)
    for photo in photos:
        score.update(*photo)
    result = score.result()
    return result.to_dict() if result else {}


def test_a_perfect_prediction_scores_one() -> None:
    objects = row(GRASS, CAT, CAT, CAT)
    result = score((logits([1, 0, 1, 2]), objects, objects, row(U, NONE, HEAD, TAIL)))
    for metric in ("miou", "miou_with_background", "pixel_accuracy", "mean_accuracy", "miou_given_object"):
        assert result[metric] == 1, metric
    assert list(result["per_object"]) == ["cat"]
    assert result["per_class"]["cat/head"] == {"iou": 1, "accuracy": 1, "pixels": 1}
    assert result["classes_absent"] == []


def test_a_part_outside_its_object_or_on_a_missed_pixel_counts_against_it() -> None:
    # truth:      none  head  head  tail tail
    # prediction: head  none  head  tail tail   (pixel 0: cat predicted on grass; pixel 1: cat missed)
    result = score(
        (
            logits([1, 1, 1, 2, 2]),
            row(CAT, GRASS, CAT, CAT, CAT),
            row(GRASS, CAT, CAT, CAT, CAT),
            row(U, HEAD, HEAD, TAIL, TAIL),
        )
    )
    assert result["per_class"]["cat/head"] == {"iou": pytest.approx(1 / 3), "accuracy": 0.5, "pixels": 2}
    assert result["per_class"]["cat/tail"]["iou"] == 1
    assert result["miou"] == pytest.approx((1 / 3 + 1) / 2)
    assert result["miou_with_background"] == pytest.approx((0 / 2 + 1 / 3 + 1) / 3)
    assert result["pixel_accuracy"] == pytest.approx(3 / 4)
    assert result["mean_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["miou_given_object"] == 1  # inside the true cat the slice is right everywhere


def test_unknown_objects_and_unknown_parts_are_left_out() -> None:
    # Only the last pixel says anything: the first two could be anything, the third is a cat whose part is unknown.
    result = score(
        (logits([1, 2, 1, 1]), row(CAT, GRASS, CAT, CAT), row(U, U, CAT, CAT), row(U, HEAD, U, HEAD)),
    )
    assert result["miou"] == 1 and result["miou_with_background"] == 1
    assert result["per_class"]["cat/head"]["pixels"] == 1
    assert result["classes_absent"] == ["cat/tail"]
    assert result["per_class"]["cat/tail"] == {"iou": None, "accuracy": None, "pixels": 0}


def test_an_owner_pixel_without_a_listed_part_is_background() -> None:
    # truth:      none head
    # prediction: tail head
    objects = row(CAT, CAT)
    result = score((logits([2, 1]), objects, objects, row(NONE, HEAD)))
    assert result["per_class"]["cat/tail"] == {"iou": 0, "accuracy": None, "pixels": 0}
    assert result["miou"] == pytest.approx((1 + 0) / 2)
    assert result["miou_with_background"] == pytest.approx((0 + 1 + 0) / 3)
    assert result["pixel_accuracy"] == 1 and result["mean_accuracy"] == 1


def test_photos_without_an_annotated_part_of_the_object_are_not_scored_for_it() -> None:
    objects = row(CAT, CAT)
    unannotated = (logits([1, 2]), objects, objects, row(NONE, NONE))
    assert score(unannotated) == {}
    annotated = (logits([1, 2]), objects, objects, row(HEAD, TAIL))
    assert score(annotated, unannotated) == score(annotated)


def test_a_shared_part_name_is_scored_per_object_and_objects_count_equally() -> None:
    objects = row(CAT, CAT, CAT, CAR)
    result = score((logits([1, 1, 2, 1], car=[2, 2, 2, 2]), objects, objects, row(HEAD, HEAD, HEAD, DOOR)))
    assert result["per_class"]["cat/head"]["pixels"] == 3 and result["per_class"]["car/door"]["iou"] == 1
    assert result["per_object"]["cat"]["miou"] == pytest.approx((2 / 3 + 0) / 2)
    assert result["miou"] == pytest.approx(((2 / 3 + 0) / 2 + 1) / 2)
    assert result["pixel_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_counts_are_pooled_over_photos_and_accumulators() -> None:
    objects = row(CAT, CAT)
    first = (logits([1, 1]), objects, objects, row(HEAD, TAIL))
    second = (logits([1, 2]), objects, objects, row(HEAD, TAIL))
    pooled = score(first, second)
    assert pooled["per_class"]["cat/tail"]["iou"] == pytest.approx(1 / 2)
    assert pooled["per_class"]["cat/head"]["iou"] == pytest.approx(2 / 3)
    one, other = PartScore(TAXONOMY), PartScore(TAXONOMY)
    one.update(*first)
    other.update(*second)
    one += other
    result = one.result()
    assert result and result.to_dict() == pooled
