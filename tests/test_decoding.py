"""Label maps in photo size, made a strip at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_network import DOG, PERSON, TAXONOMY

from upernet.inference import labeling
from upernet.inference.labeling import label_maps

side = st.integers(1, 40)


@given(parsed=st.tuples(side, side), size=st.tuples(st.integers(1, 90), st.integers(1, 90)), strip=st.integers(1, 4000))
@settings(max_examples=40, deadline=None)
def test_strips_equal_upsampling_everything_at_once(parsed: tuple[int, int], size: tuple[int, int], strip: int) -> None:
    logits = torch.randn(5, -(-parsed[0] // 32) * 8, -(-parsed[1] // 32) * 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labeling, "STRIP_VALUES", strip)
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
    maps = label_maps(logits, (32, 32), (50, 45), TAXONOMY.part_groups)
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
    maps = label_maps({"object": objects, "part": parts}, (32, 32), (32, 32), TAXONOMY.part_groups)
    assert (maps["part"][0] == 3).all()
    np.testing.assert_allclose(maps["part"][1], np.e / (np.e + 2), rtol=1e-5)
