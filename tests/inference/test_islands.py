"""Tests of upernet.inference.islands: tiny regions take the most probable label of their surroundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.inference.components import connected_runs
from upernet.inference.islands import merge_islands
from upernet.taxonomy import PartGroup

SIZE = (40, 40)


def logits(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None].expand(-1, 10, 10).contiguous()


def merged(labels: np.ndarray, *values: float, share: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    maps = {"object": (labels.astype(np.int16), np.full(SIZE, 0.9, np.float32))}
    merge_islands(maps, {"object": logits(*values)}, SIZE, largest=share)
    return maps["object"]


@pytest.mark.parametrize("island", [2, -1])
def test_islands_take_the_label_with_the_highest_logit_around(island: int) -> None:
    labels = np.zeros(SIZE)
    labels[:, 20:] = 1
    labels[10:12, 19:21] = island
    found, confidence = merged(labels, 0.0, 1.0, 5.0)
    assert (found[10:12, 19:21] == 1).all() and (np.delete(found, [10, 11], 0) == np.delete(labels, [10, 11], 0)).all()
    assert confidence[10, 19] == pytest.approx(np.exp(1) / (1 + np.exp(1) + np.exp(5)))
    assert confidence[0, 0] == np.float32(0.9)


def test_islands_in_unsure_surroundings_become_unsure() -> None:
    labels = np.full(SIZE, -1)
    labels[5:7, 5:7] = 0
    assert (merged(labels, 1.0, 0.0)[0] == -1).all()


def test_larger_regions_and_maps_of_islands_alone_stay() -> None:
    labels = np.zeros(SIZE)
    labels[:5, :5] = 1
    np.testing.assert_array_equal(merged(labels, 1.0, 0.0)[0], labels)
    np.testing.assert_array_equal(merged(labels, 1.0, 0.0, share=1.0)[0], labels)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_no_island_beside_a_region_is_left_and_no_label_appears(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(-1, 3, (5, 5)), np.ones((8, 8), int))
    noise = rng.random(SIZE) < 0.03
    labels[noise] = rng.integers(-1, 3, int(noise.sum()))
    found, confidence = merged(labels, *rng.normal(size=3).tolist())
    before = connected_runs(labels)
    sizes = np.bincount(before.component_map.ravel())[before.component_map]
    np.testing.assert_array_equal(found[sizes > 16], labels[sizes > 16])
    runs = connected_runs(found)
    areas = np.bincount(runs.components, runs.lengths)
    assert np.count_nonzero((areas > 0) & (areas <= 16)) <= np.count_nonzero(np.bincount(before.components))
    assert set(np.unique(found)) <= set(np.unique(labels)) and np.isfinite(confidence).all()


def test_parts_stay_within_their_object() -> None:
    objects = np.zeros(SIZE, np.int16)
    objects[:, 20:] = 1
    parts = np.zeros(SIZE, np.int16)
    parts[:, 20:] = 3
    parts[10, 20] = 4  # an island of the object, at its edge
    objects[30, 5] = 1  # an island of an object, with a part
    parts[30, 5] = 4
    ones = np.ones(SIZE, np.float32)
    maps = {"object": (objects, ones.copy()), "part": (parts, ones.copy())}
    groups = (PartGroup(owner=1, parts=(0, 3, 4), start=0),)
    merge_islands(maps, {"object": logits(1.0, 0.0), "part": logits(0.0, 1.0, 2.0)}, SIZE, groups, 0.01)
    assert objects[30, 5] == 0 and parts[30, 5] == 0
    assert (parts[:, 20:] == 3).all() and (parts[:, :20] == 0).all()
