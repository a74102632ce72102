"""Tests of upernet.ops.softmax, compared with float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import choose_grouped_softmax, grouped_softmax, use_kernel


def plain(x, groups):
    return x.unflatten(-1, (groups, -1)).softmax(-1).flatten(-2)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 12), min_size=0, max_size=3),
    groups=st.integers(1, 5),
    points=st.integers(1, 25),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    swapped=st.booleans(),
    threads=st.integers(1, 3),
)
def test_as_in_float64_with_gradients(shape, groups, points, spread, swapped, threads):
    torch.manual_seed(0)
    x = spread * torch.randn(*shape, groups * points)
    if swapped and len(shape) > 1:
        x = x.transpose(0, 1)
    x.requires_grad_()
    assert choose_grouped_softmax(x).kernel == "numba"
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = grouped_softmax(x, groups)
    finally:
        torch.set_num_threads(before)
    expected = plain(x.double(), groups)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-12)
    into = torch.randn_like(y)
    (ours,), (theirs,) = (torch.autograd.grad(out, x, into.to(out.dtype)) for out in (y, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_run_does_not_see_the_others():
    x = torch.randn(3, 18)
    x[0, 0], x[1, 3] = torch.nan, torch.inf
    y = grouped_softmax(x, 2)
    assert y[0, :9].isnan().all() and y[1, :9].isnan().all()
    torch.testing.assert_close(y[:, 9:], plain(x, 2)[:, 9:])
    x[2, :9] = torch.tensor([-torch.inf, *[3e38] * 8])
    torch.testing.assert_close(grouped_softmax(x, 2)[2, :9], plain(x, 2)[2, :9])


def test_other_types_take_torchs_own():
    for dtype in (torch.float64, torch.bfloat16):
        x = torch.randn(4, 18).to(dtype)
        assert choose_grouped_softmax(x).kernel == "torch"
        torch.testing.assert_close(grouped_softmax(x, 2), plain(x, 2))
    with use_kernel(grouped_softmax="other"), pytest.raises(ValueError, match="torch, numba"):
        grouped_softmax(torch.zeros(2, 4), 2)


def test_the_operator_is_registered_as_torch_wants_it():
    x = torch.randn(4, 18, requires_grad=True)
    torch.library.opcheck(torch.ops.upernet.grouped_softmax.default, (x, 2))
    torch.library.opcheck(torch.ops.upernet.grouped_softmax_backward.default, (x.detach(), x.detach(), 2))
    y = torch.randn(3, 6, requires_grad=True)
    with pytest.raises(ValueError, match="does not fit"):
        torch.ops.upernet.grouped_softmax_backward(torch.ones(9, 18), x.detach(), 2)
    with pytest.raises(ValueError, match="divided into 4 runs"):
        torch.ops.upernet.grouped_softmax(x, 4)
    second = []
    for function in (grouped_softmax, plain):
        (first,) = torch.autograd.grad(function(y, 2)[:, ::2].square().sum(), y, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), y)[0])
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(lambda x: grouped_softmax(x, 2), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain(x, 2))


def test_runs_that_do_not_fit():
    for groups in (0, 4, -1):
        with pytest.raises(ValueError, match="18 channels"):
            grouped_softmax(torch.zeros(2, 18), groups)
