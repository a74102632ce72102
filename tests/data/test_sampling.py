"""Tests of upernet.data.sampling."""

import pytest
import torch
from helpers.folders import TAXONOMY, make_label_folder, make_mask_folder, save_mask, source_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.data.sampling import BatchSampler, batches
from upernet.data.sources import open_source
from upernet.errors import UpernetError

seeds = st.integers(0, 2**40)
one_source = st.tuples(st.integers(1, 40), st.none() | st.floats(0.5, 50), st.integers(1, 12))
source_settings = st.dictionaries(st.sampled_from("abcd"), one_source, min_size=1)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, sources=source_settings)
def test_every_photo_is_taken_once_per_pass(seed, sources):
    sampler = BatchSampler(seed, sources)
    taken = {name: [] for name in sources}
    for iteration in range(60):
        source, indices, photo_seeds = sampler.plan(iteration)
        assert len(indices) == len(photo_seeds) == sources[source][2]
        taken[source] += indices
    for name, (size, _, _) in sources.items():
        for start in range(0, len(taken[name]) - size + 1, size):
            assert sorted(taken[name][start : start + size]) == list(range(size))


@settings(deadline=None, max_examples=30)
@given(seed=seeds, sources=source_settings, iterations=st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_a_plan_does_not_depend_on_what_was_asked_before(seed, sources, iterations):
    used = BatchSampler(seed, sources)
    for iteration in iterations:
        assert used.plan(iteration) == BatchSampler(seed, sources).plan(iteration)


def test_passes_and_seeds_differ():
    sampler = BatchSampler(0, {"a": (50, None, 50)})
    passes = [sampler.plan(iteration) for iteration in range(4)]
    assert len({tuple(plan.indices) for plan in passes}) == 4
    photo_seeds = [seed for plan in passes for seed in plan.seeds]
    assert len(set(photo_seeds)) == 200 and all(0 <= seed < 2**63 for seed in photo_seeds)
    assert BatchSampler(1, {"a": (50, None, 50)}).plan(0) != passes[0]


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(seed=seeds, weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=4))
def test_sources_are_drawn_in_proportion_to_their_weights(seed, weights):
    sampler = BatchSampler(seed, {str(number): (5, weight, 1) for number, weight in enumerate(weights)})
    drawn = [sampler.plan(iteration).source for iteration in range(2000)]
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(drawn.count(str(number)) / 2000 - share) < 6 * (share * (1 - share) / 2000) ** 0.5 + 1e-9


def test_without_a_weight_the_number_of_photos_counts():
    sampler = BatchSampler(3, {"small": (10, None, 1), "large": (90, None, 1)})
    drawn = [sampler.plan(iteration).source for iteration in range(2000)]
    assert 0.85 < drawn.count("large") / 2000 < 0.95


def test_the_draws_of_a_seed_are_fixed():
    """A change here breaks resuming of runs that were begun before it."""
    sampler = BatchSampler(0, {"a": (5, None, 2), "b": (3, 4.0, 3)})
    plans = [sampler.plan(iteration) for iteration in (0, 1, 1000)]
    assert [(plan.source, plan.indices, plan.seeds[0]) for plan in plans] == [
        ("a", [4, 1], 1210350791318547609),
        ("a", [3, 2], 6159835466590974887),
        ("b", [0, 2, 1], 1160716876643295853),
    ]


def test_nothing_to_draw_from():
    with pytest.raises(UpernetError, match="no data source"):
        BatchSampler(0, {})
    with pytest.raises(UpernetError, match="source a has no photos"):
        BatchSampler(0, {"a": (0, None, 1)})


@pytest.fixture
def sources(tmp_path):
    make_mask_folder(tmp_path / "one", count=5)
    make_label_folder(tmp_path / "two")
    augmentation = {"crop": [16, 16], "short_side": 12}
    masks = source_spec(batch_size=4, augmentation=augmentation, implies={"scene": "street"})
    labels = source_spec(kind="label_folder", level="scene", batch_size=2, augmentation=augmentation)
    return {
        "masks": open_source("masks", masks, TAXONOMY, tmp_path / "one", "train"),
        "labels": open_source("labels", labels, TAXONOMY, tmp_path / "two", "train"),
    }


def sampler_of(sources, seed=0):
    return BatchSampler(seed, {name: (len(source), None, source.spec.batch_size) for name, source in sources.items()})


def assert_equal(first, second):
    assert (first.source, first.keys, first.implied) == (second.source, second.keys, second.implied)
    assert torch.equal(first.images, second.images)
    assert first.maps.keys() == second.maps.keys() and first.labels.keys() == second.labels.keys()
    assert all(torch.equal(first.maps[level], second.maps[level]) for level in first.maps)
    assert all(torch.equal(first.labels[level], second.labels[level]) for level in first.labels)


@pytest.mark.slow
def test_batches_are_the_same_for_any_number_of_workers_and_after_resume(sources):
    sampler = sampler_of(sources)
    state = torch.get_rng_state()
    alone = list(batches(sources, sampler, 0, 8))
    assert {batch.source for batch in alone} == {"masks", "labels"}
    for batch in alone:
        assert batch.images.shape[1:] == (3, 16, 16) and len(batch) == sources[batch.source].spec.batch_size
        assert all(value.dtype == torch.int64 for value in [*batch.maps.values(), *batch.labels.values()])
    for workers in (1, 2):
        for first, second in zip(alone, batches(sources, sampler_of(sources), 0, 8, workers), strict=True):
            assert_equal(first, second)
    for first, second in zip(alone[5:], batches(sources, sampler_of(sources), 5, 8, 1), strict=True):
        assert_equal(first, second)
    assert torch.equal(state, torch.get_rng_state()), "the loader used the global random state"


def test_ranks_share_each_batch(sources):
    whole = list(batches(sources, sampler_of(sources), 0, 6))
    shares = [list(batches(sources, sampler_of(sources), 0, 6, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert batch.keys[0::2] == first.keys and batch.keys[1::2] == second.keys
        assert torch.equal(batch.images[0::2], first.images) and torch.equal(batch.images[1::2], second.images)
    with pytest.raises(UpernetError, match=r"sources\.labels\.batch_size: 2 photos"):
        next(batches(sources, sampler_of(sources), 0, 1, world_size=3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_mask_is_told_in_one_sentence_by_workers_too(sources, workers):
    for photo in sources["masks"].photos:
        save_mask(photo.masks["object"], [[99] * 12] * 8)
    with pytest.raises(UpernetError) as caught:
        list(batches(sources, sampler_of(sources), 0, 8, workers))
    assert "value 99 is not mapped" in str(caught.value) and "\n" not in str(caught.value)
