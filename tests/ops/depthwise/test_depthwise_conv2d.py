"""Tests of upernet.ops.depthwise, compared with convolutions in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import choose_depthwise_conv2d, depthwise_conv2d, use_kernel

weight_gradient = torch.ops.upernet.depthwise_weight_gradient


def arguments(images, channels, size, filters=5) -> Any:
    torch.manual_seed(0)
    tensors = (torch.randn(images, channels, *size), torch.randn(channels, 1, filters, filters), torch.randn(channels))
    return [tensor.requires_grad_() for tensor in tensors]


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 3),
    channels=st.sampled_from([16, 32, 48]),
    size=st.tuples(st.integers(5, 21), st.integers(5, 21)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 6),
    has_bias=st.booleans(),
    channels_last=st.booleans(),
    threads=st.integers(1, 3),
)
def test_as_in_float64_with_gradients(images, channels, size, stride, padding, has_bias, channels_last, threads):
    x, weight, bias = arguments(images, channels, size)
    inputs = [x, weight, bias] if has_bias else [x, weight]
    given_x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    exact = F.conv2d(*(each.double() for each in inputs), stride=stride, padding=padding, groups=channels)
    into = torch.randn_like(exact)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert choose_depthwise_conv2d(given_x, weight).kernel == "numba"
        y = depthwise_conv2d(given_x, weight, bias if has_bias else None, stride, padding)
        ours = torch.autograd.grad(y, inputs, into.float())
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)
    for a, b in zip(ours, torch.autograd.grad(exact, inputs, into), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads(threads):
    x, *_ = arguments(3, 32, (19, 9))
    grad = torch.randn(3, 32, 19, 9)
    before, found = torch.get_num_threads(), []
    try:
        for count in (threads, 4):
            torch.set_num_threads(count)
            found.append(weight_gradient(grad, x.detach(), 1, 2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nothing_beside_the_maps_is_read():
    def surrounded(*shape):
        around = torch.full((torch.Size(shape).numel() + 2048,), torch.nan)
        inner = around[1024:-1024].view(shape)
        return inner.fill_(1).permute(0, 3, 1, 2)

    x, grad = surrounded(2, 7, 6, 16), surrounded(2, 7, 6, 16)
    weight, bias = weight_gradient(grad, x, 1, 2)
    rows, columns = torch.tensor([5.0, 6, 7, 6, 5]), torch.tensor([4.0, 5, 6, 5, 4])
    torch.testing.assert_close(weight, (2 * rows[:, None] * columns).expand(16, 1, 5, 5))
    torch.testing.assert_close(bias, torch.full((16,), 2.0 * 7 * 6))


def test_gradients_that_nobody_wants_are_not_computed():
    x, weight, bias = arguments(1, 16, (6, 7))
    for wanted in ((x, weight), (weight,), (weight, bias)):
        for each in (x, weight, bias):
            each.requires_grad_(any(each is other for other in wanted))
            each.grad = None
        depthwise_conv2d(x, weight, bias, 1, 2).sum().backward()
        assert [each.grad is not None for each in (x, weight, bias)] == [
            each.requires_grad for each in (x, weight, bias)
        ]


def test_where_torchs_own_is_chosen():
    x, weight, bias = arguments(1, 16, (6, 7))
    assert choose_depthwise_conv2d(x, weight, bias).kernel == "numba"
    assert choose_depthwise_conv2d(x, weight.detach()).kernel == "torch"
    assert choose_depthwise_conv2d(x.double(), weight.double()).kernel == "torch"
    assert choose_depthwise_conv2d(*arguments(1, 16, (6, 7), filters=3)).kernel == "torch"
    assert choose_depthwise_conv2d(*arguments(1, 15, (6, 7))).kernel == "torch"
    with torch.no_grad():
        assert choose_depthwise_conv2d(x, weight).kernel == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_depthwise_conv2d(x, weight).kernel == "torch"
        assert depthwise_conv2d(x, weight, bias).dtype == torch.bfloat16
    with use_kernel(depthwise_conv2d="other"), pytest.raises(ValueError, match="torch, numba"):
        depthwise_conv2d(x, weight)


def test_arguments_that_do_not_fit():
    x, weight, bias = arguments(1, 16, (6, 7))
    for wrong, match in (((x[0], weight), "N x C"), ((x, weight[1:]), "C x 1"), ((x, weight, bias[1:]), "16 channels")):
        with pytest.raises(ValueError, match=match):
            depthwise_conv2d(*wrong)
    for grad, stride, padding in ((x[:, :, 1:], 1, 2), (x, 1, 1), (x, 0, 2), (x, 1, -1)):
        with pytest.raises(ValueError, match="depthwise_conv2d"):
            weight_gradient(grad.detach(), x.detach(), stride, padding)


def test_the_operators_are_registered_as_torch_wants_them():
    x, weight, bias = arguments(1, 16, (6, 7))
    torch.library.opcheck(torch.ops.upernet.depthwise_conv2d.default, (x, weight, bias, 2, 2))
    y = depthwise_conv2d(x, weight, bias, 1, 2)
    gradient = torch.ops.upernet.depthwise_input_gradient.default
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(gradient, (y.detach(), x.detach(), weight.detach(), 1, 2), test_utils=checks)
    torch.library.opcheck(weight_gradient.default, (y.detach(), x.detach(), 1, 2), test_utils=checks)
    (first,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated again"):
        torch.autograd.grad(first.sum(), x)
