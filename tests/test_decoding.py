"""Tests of `upernet.decoding`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet import decoding
from upernet.decoding import (
    Prediction,
    add_resized_probabilities,
    image_scores,
    label_maps,
    parts_within_owners,
    predict,
    resized_prediction,
)
from upernet.ops import use_kernel
from upernet.ops.upsampled import reference
from upernet.taxonomy import PartGroup

PERSON, DOG = 2, 3
PART_GROUPS = (PartGroup(PERSON, (0, 1, 2), 0), PartGroup(DOG, (0, 1, 3), 3))

side = st.integers(1, 40)


@pytest.mark.slow
@given(parsed=st.tuples(side, side), size=st.tuples(st.integers(1, 90), st.integers(1, 90)), strip=st.integers(1, 4000))
@settings(max_examples=40, deadline=None)
def test_strips_equal_upsampling_everything_at_once(parsed: tuple[int, int], size: tuple[int, int], strip: int) -> None:
    logits = torch.randn(5, -(-parsed[0] // 32) * 8, -(-parsed[1] // 32) * 8)
    with pytest.MonkeyPatch.context() as patch, use_kernel(upsampled_labels="torch"):
        patch.setattr(reference, "STRIP_VALUES", strip)
        labels, confidence = label_maps({"object": logits}, parsed, size)["object"]
    assert labels.shape == confidence.shape == size
    assert labels.dtype == np.int16 and confidence.dtype == np.float32

    rows = ((torch.arange(size[0]) + 0.5) * parsed[0] / size[0]) / 4 / logits.shape[1] * 2 - 1
    columns = ((torch.arange(size[1]) + 0.5) * parsed[1] / size[1]) / 4 / logits.shape[2] * 2 - 1
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]
    wanted = F.grid_sample(logits[None], grid, "bilinear", "border", align_corners=False)[0].softmax(dim=0)
    np.testing.assert_allclose(confidence, wanted.amax(dim=0), atol=1e-4)
    chosen = np.take_along_axis(wanted.numpy(), labels[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, wanted.amax(dim=0), atol=1e-4)


def test_a_photo_of_a_multiple_of_32_is_upsampled_as_torch_does_it() -> None:
    logits = torch.randn(3, 16, 24)
    _, confidence = label_maps({"object": logits}, (64, 96), (64, 96))["object"]
    wanted = F.interpolate(logits[None], scale_factor=4, mode="bilinear")[0].softmax(dim=0).amax(dim=0)
    np.testing.assert_allclose(confidence, wanted, atol=1e-5)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_parts_lie_only_inside_their_owners(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = {"object": torch.randn(4, 8, 8, generator=generator), "part": torch.randn(6, 8, 8, generator=generator)}
    maps = label_maps(logits, (32, 32), (50, 45), PART_GROUPS)
    objects, parts = maps["object"][0], maps["part"][0]
    allowed = {PERSON: {0, 1, 2}, DOG: {0, 1, 3}}
    for label in range(4):
        assert set(parts[objects == label].tolist()) <= allowed.get(label, {0})
    np.testing.assert_array_equal(maps["part"][1][objects < PERSON], maps["object"][1][objects < PERSON])


def test_a_part_is_chosen_by_the_softmax_over_its_owners_slice() -> None:
    objects = torch.zeros(4, 8, 8)
    objects[DOG] = 10
    parts = torch.zeros(6, 8, 8)
    parts[1] = 100  # hair of a person: must not matter
    parts[5] = 1  # paw of a dog
    maps = label_maps({"object": objects, "part": parts}, (32, 32), (32, 32), PART_GROUPS)
    assert (maps["part"][0] == 3).all()
    np.testing.assert_allclose(maps["part"][1], np.e / (np.e + 2), rtol=1e-5)


def test_parts_are_decoded_alike_at_any_resolution() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = {"part": torch.randn(6, 5, 7, generator=generator), "object": torch.randn(4, 5, 7, generator=generator)}
    plain = predict(logits, PART_GROUPS)
    twice = predict(logits, PART_GROUPS, lambda x: x.repeat_interleave(2, dim=1))
    for level in logits:
        assert torch.equal(twice[level].labels, plain[level].labels.repeat_interleave(2, dim=0))
        assert torch.equal(twice[level].confidence, plain[level].confidence.repeat_interleave(2, dim=0))


def test_predictions_are_softmax_probabilities() -> None:
    logits = {"scene": torch.tensor([1.0, 3.0, 2.0]), "material": torch.randn(3, 2, 2)}
    found = predict(logits)
    assert found["scene"].labels.item() == 1
    assert float(found["scene"].confidence) == pytest.approx(float(logits["scene"].softmax(0)[1]))
    torch.testing.assert_close(found["material"].confidence, logits["material"].softmax(0).amax(0))
    assert found["material"].labels.dtype == torch.int64


def test_only_the_part_logits_of_predicted_owners_are_resized() -> None:
    owners = Prediction(torch.tensor([[DOG, 0]]), torch.tensor([[0.9, 0.8]]))
    resized: list[int] = []

    def resample(logits: torch.Tensor) -> torch.Tensor:
        resized.append(len(logits))
        return logits

    found = parts_within_owners(torch.arange(12.0).reshape(6, 1, 2), owners, PART_GROUPS, resample)
    assert resized == [3]
    assert found.labels.tolist() == [[3, 0]] and found.confidence[0, 1] == owners.confidence[0, 1]


def assert_predicts(found: Prediction, logits: torch.Tensor) -> None:
    """Compare with K x H x W logits: the same labels, unless two logits are equal but for rounding."""
    chosen = logits.gather(0, found.labels[None])[0]
    assert found.labels.dtype == torch.int64
    torch.testing.assert_close(chosen, logits.amax(dim=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.confidence, logits.softmax(dim=0).amax(dim=0))


@pytest.mark.parametrize("sizes", [[(37, 31)], [(24, 20), (37, 31)], [(50, 44), (37, 31)], [(24, 20), (24, 20)]])
@pytest.mark.parametrize("sizes_before", [[], [(9, 9), (24, 20)]])
def test_a_prediction_is_resized_through_every_size(
    sizes_before: list[tuple[int, int]], sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "STRIP_VALUES", 20 * 31 * 5)  # some rows at a time
    logits = torch.randn(1, 20, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = logits
    for size in (*sizes_before, *sizes):
        expected = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
    via_sizes = [*sizes_before, *sizes[:-1]]
    assert_predicts(resized_prediction(logits, sizes[-1], via_sizes), expected[0])
    sums = torch.ones(20, *sizes[-1])
    add_resized_probabilities(sums, logits, via_sizes)
    torch.testing.assert_close(sums, 1 + expected[0].softmax(dim=0))
    with pytest.raises(ValueError, match="without channels"):
        resized_prediction(logits[:, :0], (8, 8))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_resized_predictions_are_those_of_the_resized_logits(channels: int, height: int, width: int, seed: int) -> None:
    logits = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
    size = (4 * height - 1, 4 * width)
    resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert_predicts(resized_prediction(logits, size), resized[0])
    assert torch.equal(resized_prediction(logits, size, probabilities=True).confidence, resized[0].amax(dim=0))


def test_image_scores_of_a_dense_level_are_pooled_as_the_level_was_taught() -> None:
    # One pixel is very sure of class 0, three are fairly sure of class 1.
    logits = torch.tensor([[10.0, 0.0, 0.0, 0.0], [0.0, 3.0, 3.0, 3.0]]).view(1, 2, 2, 2)
    assert image_scores(logits, "pooled").tolist() == [2.5, 2.25]
    assert image_scores(logits, "broadcast").argmax() == 1
    assert image_scores(torch.tensor([[1.0, 2.0]]), "broadcast").tolist() == [1, 2]
