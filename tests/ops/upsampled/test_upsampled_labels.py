"""Tests of upernet.ops.upsampled: kernels agree with torch's own bilinear resize, also in groups of channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from upernet.decoding import interpolation
from upernet.ops import (
    Axis,
    OwnedChannels,
    add_upsampled_probabilities,
    choose_upsampled_labels,
    upsampled_labels,
    use_kernel,
)

STRIDE = 4


def axes(logits: Tensor, size: tuple[int, int]) -> list[Axis]:
    """Return the cells beside each pixel, where the logits cover the whole photo."""
    sides = zip(size, logits.shape[1:], strict=True)
    return [Axis(*interpolation(slice(0, full), length, STRIDE * length, full)) for full, length in sides]


def upsampled(
    kernel: str, logits: Tensor, size: tuple[int, int], owners: Tensor | None = None, *groups: OwnedChannels
) -> tuple[Tensor, Tensor]:
    labels, confidence = torch.full(size, 7, dtype=torch.int16), torch.full(size, 0.25)
    with use_kernel(upsampled_labels=kernel):
        upsampled_labels(logits, *axes(logits, size), labels, confidence, owners, groups)
    return labels, confidence


def random_logits(seed: int, *shape: int) -> Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


shapes = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 25))
sizes = st.tuples(st.integers(1, 90), st.integers(1, 200))


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@given(st.integers(0, 10**6), shapes, sizes)
@settings(max_examples=25, deadline=None)
def test_labels_are_those_of_resized_logits(
    kernel: str, seed: int, shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    logits = random_logits(seed, *shape)
    labels, confidence = upsampled(kernel, logits, size)
    expected = F.interpolate(logits[None], size=size, mode="bilinear")[0].softmax(dim=0)
    torch.testing.assert_close(confidence, expected.amax(dim=0), atol=1e-4, rtol=0)
    chosen = expected.gather(0, labels[None].long())[0]
    torch.testing.assert_close(chosen, expected.amax(dim=0), atol=1e-4, rtol=0)


@given(st.integers(0, 10**6), shapes, sizes)
@settings(max_examples=25, deadline=None)
def test_kernels_choose_the_same_labels_unless_two_logits_are_equal_but_for_rounding(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    logits = random_logits(seed, *shape)
    labels, confidence = upsampled("torch", logits, size)
    fast_labels, fast_confidence = upsampled("numba", logits, size)
    resized = F.interpolate(logits[None], size=size, mode="bilinear")[0]
    chosen, fast = (resized.gather(0, found[None].long())[0] for found in (labels, fast_labels))
    torch.testing.assert_close(fast, chosen, atol=2e-5, rtol=0)
    torch.testing.assert_close(fast_confidence, confidence, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@given(st.integers(0, 10**6), shapes, sizes)
@settings(max_examples=25, deadline=None)
def test_probabilities_are_added_where_they_belong(
    kernel: str, seed: int, shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    logits = random_logits(seed, *shape)
    around = torch.full((shape[0] + 2, size[0] + 2, size[1]), 7.0)  # what lies before and behind must not change
    sums = around[1:-1, 1:-1]
    with use_kernel(upsampled_labels=kernel):
        add_upsampled_probabilities(logits, *axes(logits, size), sums)
    expected = torch.full_like(around, 7.0)
    expected[1:-1, 1:-1] += F.interpolate(logits[None], size=size, mode="bilinear")[0].softmax(dim=0)
    torch.testing.assert_close(around, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_an_owner_has_the_labels_of_its_channels_and_others_keep_theirs(kernel: str) -> None:
    logits, size = random_logits(0, 7, 5, 20), (20, 150)
    owners = torch.randint(0, 4, size, generator=torch.Generator().manual_seed(0)).to(torch.int16)
    owners[:, :70] = 0  # whole blocks without an owner of channels
    groups = [OwnedChannels(2, 0, (0, 5, 9)), OwnedChannels(3, 3, (0, 4, 2, 1)), OwnedChannels(90, 0, (0, 5, 9))]
    labels, confidence = upsampled(kernel, logits, size, owners, *groups)
    resized = F.interpolate(logits[None], size=size, mode="bilinear")[0]
    nobodys = owners < 2
    assert (labels[nobodys] == 7).all() and (confidence[nobodys] == 0.25).all()
    for group in groups[:2]:
        owned = owners == group.owner
        expected, number = resized[group.first : group.first + len(group.names), owned].softmax(dim=0).max(dim=0)
        assert torch.equal(labels[owned].long(), torch.tensor(group.names)[number])
        torch.testing.assert_close(confidence[owned], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_show_in_the_confidence(kernel: str, value: float) -> None:
    logits = random_logits(0, 20, 4, 4)
    logits[3, 1, 2] = value
    assert not upsampled(kernel, logits, (16, 16))[1].isfinite().all()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    logits, threads = random_logits(1, 30, 20, 30), torch.get_num_threads()
    results: list[tuple[Tensor, Tensor]] = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(upsampled("numba", logits, (77, 131)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_an_unknown_kernel_is_refused() -> None:
    assert choose_upsampled_labels(torch.zeros(1, 1, 1)).kernel in ("numba", "torch")
    assert choose_upsampled_labels(torch.zeros(1, 1, 1, device="meta")).kernel == "torch"
    with pytest.raises(ValueError, match="no kernel quick"):
        upsampled("quick", torch.zeros(1, 1, 1), (4, 4))
