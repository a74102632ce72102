"""Tests of upernet.training.losses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.data.candidates import Candidates
from upernet.data.sample import Batch
from upernet.errors import UpernetError
from upernet.models import AUXILIARY
from upernet.recipe import LossSpec
from upernet.taxonomy import IGNORE, Taxonomy, load_taxonomy
from upernet.training.losses import LevelLosses

TAXONOMY = Taxonomy.from_dict(
    {
        "name": "two",
        "description": "two objects with parts, one without; one part name is shared",
        "levels": {
            "scene": {"classes": ["day", "night"]},
            "object": {"classes": ["cat", "car", "sky"]},
            "part": {"classes": ["head", "paw", "wheel"], "of": {"cat": ["head", "paw"], "car": ["wheel", "head"]}},
            "material": {"background": "-", "classes": ["fur", "metal"]},
            "texture": {"classes": ["banded", "bumpy"]},
        },
    }
)


def batch(maps=None, labels=None) -> Batch:
    maps, labels = maps or {}, labels or {}
    count = len(next(iter((maps | labels).values())))
    return Batch(
        images=torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        maps=maps,
        labels=labels,
        implied=frozenset(),
        source="s",
        keys=("",) * count,
    )


def value(ratio) -> float:
    return float((ratio.numerator / ratio.denominator).detach())


def negative_log_probability(scores: np.ndarray, label: int) -> float:
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_losses_are_the_means_written_out_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    size = (2, 3, 4)
    objects = rng.integers(-1, 3, size)
    parts = rng.integers(-1, 4, size)
    materials = rng.integers(-1, 3, size)
    logits = {
        "object": rng.normal(size=(2, 3, 3, 4)),
        "part": rng.normal(size=(2, TAXONOMY.num_logits("part"), 3, 4)),
        "material": rng.normal(size=(2, 3, 3, 4)),
    }
    losses = LevelLosses(TAXONOMY, LossSpec())(
        {level: torch.tensor(x) for level, x in logits.items()},
        batch({"object": torch.tensor(objects), "part": torch.tensor(parts), "material": torch.tensor(materials)}),
        {},
    )

    expected: dict[str, list[float]] = {"object": [], "part/cat": [], "part/car": [], "material": []}
    slices = {
        0: (0, [0, 1, 2], "part/cat"),
        1: (3, [0, 3, 1], "part/car"),
    }  # owner -> start, global labels of the slice
    for n, y, x in np.ndindex(*size):
        owner, part, material = (int(labels[n, y, x]) for labels in (objects, parts, materials))
        if owner != IGNORE:
            expected["object"].append(negative_log_probability(logits["object"][n, :, y, x], owner))
        if owner in slices and part != IGNORE:
            start, names, key = slices[owner]
            local = names.index(part) if part in names else 0
            expected[key].append(negative_log_probability(logits["part"][n, start : start + 3, y, x], local))
        if material > 0:  # background of a level is unknown
            expected["material"].append(negative_log_probability(logits["material"][n, :, y, x], material))
    for name, terms in expected.items():
        if terms:
            assert value(losses[name]) == pytest.approx(np.mean(terms), rel=1e-5)
        elif name in losses:
            assert losses[name].denominator == 0 and losses[name].numerator == 0


def test_parts_of_one_object_do_not_see_the_logits_of_another():
    logits = torch.randn(1, TAXONOMY.num_logits("part"), 2, 2, requires_grad=True)
    maps = {"object": torch.zeros(1, 2, 2, dtype=torch.long), "part": torch.ones(1, 2, 2, dtype=torch.long)}
    losses = LevelLosses(TAXONOMY, LossSpec())({"part": logits}, batch(maps), {})
    sum(ratio.numerator for ratio in losses.values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None and logits.grad[:, :3].any() and not logits.grad[:, 3:].any()


def test_class_weights_weigh_the_mean():
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]).T.reshape(1, 3, 1, 2)
    maps = {"object": torch.tensor([[[0, 1]]])}
    spec = LossSpec(class_weights={"object": {"car": 3.0}})
    ratio = LevelLosses(TAXONOMY, spec)({"object": logits}, batch(maps), {})["object"]
    first = -1 + math.log(math.e + 2)
    second = -2 + math.log(math.e**2 + 2)
    assert value(ratio) == pytest.approx((first + 3 * second) / 4, rel=1e-6)


def test_stride_takes_every_nth_pixel_from_the_middle_of_its_cell():
    objects = torch.full((1, 8, 8), IGNORE)
    objects[0, 2::4, 2::4] = 1  # the published training takes source index 4 i + 2
    logits = torch.zeros(1, 3, 2, 2)
    ratio = LevelLosses(TAXONOMY, LossSpec(stride=4))({"object": logits}, batch({"object": objects}), {})["object"]
    assert ratio.denominator == 4 and value(ratio) == pytest.approx(math.log(3))


def test_image_labels_teach_dense_levels_by_the_mean_of_the_logits_or_at_every_pixel():
    logits = torch.tensor([[[[0.0, 4.0]], [[2.0, 0.0]]]])  # banded, bumpy at two pixels
    labels = {"texture": torch.tensor([1])}
    losses = LevelLosses(TAXONOMY, LossSpec())
    pooled = value(losses({"texture": logits}, batch(labels=labels), {})["texture"])
    broadcast = value(losses({"texture": logits}, batch(labels=labels), {"texture": "broadcast"})["texture"])
    assert pooled == pytest.approx(math.log(1 + math.exp(1)))
    assert broadcast == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(4))) / 2)


def test_unknown_scene_gives_a_loss_of_zero_over_zero():
    ratio = LevelLosses(TAXONOMY, LossSpec())(
        {"scene": torch.randn(2, 2)}, batch(labels={"scene": torch.tensor([-1, -1])}), {}
    )
    assert ratio["scene"].numerator == 0 and ratio["scene"].denominator == 0


def test_auxiliary_head_learns_objects_with_its_own_weight():
    losses = LevelLosses(TAXONOMY, LossSpec())
    logits = {"object": torch.zeros(1, 3, 2, 2), AUXILIARY: torch.zeros(1, 3, 1, 1)}
    result = losses(logits, batch({"object": torch.zeros(1, 2, 2, dtype=torch.long)}), {})
    assert value(result["object/auxiliary"]) == pytest.approx(math.log(3))
    assert losses.weight("object") == 1 and losses.weight("object/auxiliary") == pytest.approx(0.4)
    halved = LevelLosses(TAXONOMY, LossSpec(weak=0.5))
    assert halved.weight("object", {"object"}) == 0.5 and halved.weight("object", {"scene"}) == 1
    assert [losses.weight(name) for name in ("part/cat", "scene", "material")] == [0.5, 0.25, 1.0]


def test_every_part_group_of_broden_maps_its_parts_to_their_place():
    taxonomy = load_taxonomy("broden")
    losses = LevelLosses(taxonomy, LossSpec())
    for group in taxonomy.part_groups:
        table = losses.local_labels[group]
        assert [int(table[part]) for part in group.parts] == list(range(len(group.parts)))
        assert int((table > 0).sum()) == len(group.parts) - 1


def test_the_total_is_the_weighted_sum_that_a_step_takes():
    torch.manual_seed(0)
    losses = LevelLosses(TAXONOMY, LossSpec(weak=0.5, weights={"object": 2.0}))
    logits = {"object": torch.randn(2, 3, 4, 4, requires_grad=True), "scene": torch.randn(2, 2)}
    maps, labels = {"object": torch.randint(-1, 3, (2, 8, 8))}, {"scene": torch.tensor([1, IGNORE])}
    data = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), maps, labels, frozenset({"scene"}))
    ratios = losses(logits, data, {})
    expected = 2 * value(ratios["object"]) + 0.25 * 0.5 * value(ratios["scene"])
    assert losses.total(logits, data).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"object": torch.zeros(1, 8, 8, dtype=torch.uint8)}, r"torch.uint8 1 x 8 x 8; they must be torch.int64 1 x 8"),
        ({"object": torch.zeros(1, 4, 4, dtype=torch.int64)}, "torch.int64 1 x 4 x 4; they must be torch.int64 1 x 8"),
        ({"object": torch.full((1, 8, 8), 255)}, "from 255 to 255; they must be from 0 to 2, or -1 where unknown"),
        ({"objects": torch.zeros(1, 8, 8, dtype=torch.int64)}, "objects"),
    ],
)
def test_the_total_refuses_labels_that_are_none(labels, message):
    logits = {"object": torch.randn(1, 3, 4, 4)}
    with pytest.raises(UpernetError, match=message):
        LevelLosses(TAXONOMY).total(logits, Batch(torch.zeros(1, 3, 8, 8), labels))


def test_the_total_of_unknown_labels_is_zero_and_has_a_gradient():
    logits = {"object": torch.randn(1, 3, 4, 4, requires_grad=True)}
    maps = {"object": torch.full((1, 8, 8), IGNORE)}
    total = LevelLosses(TAXONOMY).total(logits, Batch(torch.zeros(1, 3, 8, 8), maps))
    total.backward()
    assert total == 0 and not logits["object"].grad.any()


def test_a_known_background_is_trained_like_a_class():
    logits = torch.tensor([2.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    for known, labels in ((True, [0, 2]), (False, [2])):
        levels = {"texture": {"background": "none", "known_background": known, "classes": ["banded", "bumpy"]}}
        losses = LevelLosses(Taxonomy.from_dict({"levels": levels}))
        ratio = losses({"texture": logits}, batch({"texture": torch.tensor([[[0, 2]]])}), {})["texture"]
        expected = np.mean([negative_log_probability(np.array([2.0, 0.0, 1.0]), label) for label in labels])
        assert value(ratio) == pytest.approx(expected, rel=1e-6)


# candidate sets


def written_out(scores: np.ndarray, members: np.ndarray) -> float:
    probabilities = np.exp(scores - scores.max())
    return -float(np.log((probabilities / probabilities.sum())[members].sum()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_candidate_losses_written_out_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    members = rng.random((3, 3)) < 0.6
    members[0] = [False, True, False]
    weights = rng.uniform(0.1, 2, 3)
    objects = rng.integers(-4, 3, (2, 3, 4))
    logits = rng.normal(size=(2, 3, 3, 4))
    candidates = {"object": Candidates(torch.tensor(members), torch.tensor(weights))}
    data = replace(batch({"object": torch.tensor(objects)}), candidates=candidates)
    spec = LossSpec(class_weights={"object": {"car": 3.0}})
    ratio = LevelLosses(TAXONOMY, spec)({"object": torch.tensor(logits)}, data, {})["object"]
    numerator = denominator = 0.0
    for photo, row, column in np.ndindex(objects.shape):
        label, scores = objects[photo, row, column], logits[photo, :, row, column]
        if label >= 0:
            weight, among = (3.0 if label == 1 else 1.0), np.arange(3) == label
        elif label < IGNORE and members[-2 - label].any():
            weight, among = weights[-2 - label], members[-2 - label]
        else:
            continue
        numerator += weight * written_out(scores, among)
        denominator += weight
    assert float(ratio.numerator) == pytest.approx(numerator, rel=1e-5)
    assert float(ratio.denominator) == pytest.approx(denominator)


def test_candidates_among_the_parts_of_an_object():
    # cat (object 0) has the parts head (1) and paw (2): channels none, head, paw
    candidates = {"part": Candidates(torch.tensor([[False, True, True, False]]), torch.tensor([1.0]))}
    maps = {"object": torch.tensor([[[0, 0, 1]]]), "part": torch.tensor([[[-2, 1, -2]]])}
    scores = torch.arange(TAXONOMY.num_logits("part") * 3.0).view(1, -1, 1, 3).cos()
    losses = LevelLosses(TAXONOMY)({"part": scores}, replace(batch(maps), candidates=candidates), {})
    cat = scores[0, :3, 0].numpy()
    expected = written_out(cat[:, 0], np.array([False, True, True])) + negative_log_probability(cat[:, 1], 1)
    assert float(losses["part/cat"].numerator) == pytest.approx(expected)
    # of the car's parts (wheel, head), only the head is a candidate
    car = scores[0, 3:, 0, 2].numpy()
    assert float(losses["part/car"].numerator) == pytest.approx(negative_log_probability(car, 2), rel=1e-5)


def test_none_of_these_pushes_the_sum_of_the_probabilities_down():
    candidates = {"object": Candidates(torch.tensor([[False, False, True]]), torch.tensor([1.0]))}
    logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
    data = replace(batch({"object": torch.full((1, 1, 1), -2)}), candidates=candidates)
    LevelLosses(TAXONOMY).total({"object": logits}, data).backward()
    assert logits.grad is not None
    down, down_too, up = logits.grad.flatten().tolist()
    assert down == pytest.approx(1 / 3) and down_too == pytest.approx(1 / 3) and up == pytest.approx(-2 / 3)


def test_a_code_without_a_set_is_an_error():
    data = Batch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {"object": torch.full((1, 8, 8), -2)})
    with pytest.raises(UpernetError, match="from -2 to -2"):
        LevelLosses(TAXONOMY).total({"object": torch.zeros(1, 3, 8, 8)}, data)
