"""Tests of upernet.ops.conv3x3.kernel_parts, compared with slices and permutations of the weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import use_kernel
from upernet.ops.conv3x3.kernel_parts import split_kernel

join = torch.ops.upernet.join_kernel


def plain(weight, channels, coarse):
    parts = weight.split(channels, dim=1)
    return [part.permute(2, 3, 0, 1).flatten(0, 2) if k in coarse else part for k, part in enumerate(parts)]


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 40),
    channels=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    coarse=st.sets(st.integers(0, 3)),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    language=st.sampled_from(["numba", "triton"]),
)
def test_as_torchs_views(outputs, channels, coarse, memory_format, dtype, language):
    weight = torch.randn(outputs, sum(channels), 3, 3, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    as_taps = [k in coarse for k in range(len(channels))]
    with use_kernel(upsample_taps=language):
        parts = split_kernel(weight, channels, coarse)
        expected = plain(weight, channels, coarse)
        for part, each in zip(parts, expected, strict=True):
            assert part.is_contiguous() and torch.equal(part, each)
        into = [torch.randn(part.shape[::-1], dtype=dtype).permute(*range(part.dim())[::-1]) for part in parts]
        (ours,) = torch.autograd.grad(parts, weight, into)
        (theirs,) = torch.autograd.grad(expected, weight, into)
        assert torch.equal(ours, theirs)
        assert torch.equal(join(parts, as_taps), weight)


def test_parts_without_a_gradient():
    weight = torch.randn(16, 48, 3, 3, requires_grad=True)
    part = split_kernel(weight, [16, 16, 16], [1])[1]
    (gradient,) = torch.autograd.grad(part.sum(), weight)
    expected = torch.zeros_like(weight)
    expected[:, 16:32] = 1
    assert torch.equal(gradient, expected)


def test_gradients_agree_with_finite_differences():
    weight = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    for function in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert function(lambda weight: split_kernel(weight, [2, 3], [1]), weight)
        assert function(lambda *parts: join(parts, [False, True]), split_kernel(weight, [2, 3], [1]))


@pytest.mark.slow
def test_operators_are_registered_as_torch_wants_them():
    weight = torch.randn(4, 7, 3, 3, requires_grad=True)
    arguments = [3, 4], [True, False]
    torch.library.opcheck(torch.ops.upernet.split_kernel.default, (weight, *arguments))
    parts = [part.detach().requires_grad_() for part in torch.ops.upernet.split_kernel(weight, *arguments)]
    torch.library.opcheck(join.default, (parts, arguments[1]))


def test_weights_that_do_not_fit():
    for shape in ((4, 8, 3, 3), (4, 7, 3, 2), (4, 7, 9)):
        with pytest.raises(ValueError, match="has no parts of"):
            split_kernel(torch.zeros(shape), [3, 4], [0])
