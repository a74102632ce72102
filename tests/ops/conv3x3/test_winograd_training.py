"""Tests of Winograd's transforms in training (upernet.ops.conv3x3), compared with convolutions in float64."""

import pytest
import torch
import torch.nn.functional as F
from helpers.threads import on_threads
from helpers.winograd import has_large_tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from upernet.ops import PLAIN, choose_upsample_conv3x3, upsample_conv3x3, use_kernel
from upernet.ops.conv3x3 import winograd_training_cpu

weight_gradient = torch.ops.upernet.winograd_conv3x3_weight_gradient


def conv3x3(rows, weight, adjoint, taps=()):
    return torch.ops.upernet.winograd_conv3x3(rows, weight, adjoint, list(taps))


def arguments(size, channels=(16, 32), n=2, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(n, channels[0], *size, dtype=dtype, requires_grad=True)
    weight = torch.randn(channels[1], channels[0], 3, 3, dtype=dtype) / (9 * channels[0]) ** 0.5
    return x, weight.requires_grad_(), torch.randn(n, channels[1], *size, dtype=dtype)


def rows(x, weight, grad, requires_grad=False):
    """As the operators take them: maps N x H x W x C."""
    inputs = x.permute(0, 2, 3, 1), weight, grad.permute(0, 2, 3, 1)
    return [each.detach().requires_grad_(requires_grad) for each in inputs]


def both_ways(x, weight, grad, threads=2):
    """Return [result, gradient of x, gradient of the weight] by Winograd's transforms, and by `conv2d` in float64."""

    def fast():
        y = upsample_conv3x3([x], weight)
        return [y, *torch.autograd.grad(y, (x, weight), grad)]

    with use_kernel(upsample_conv3x3="winograd"):
        ours = on_threads(threads, fast)
    y = F.conv2d(x.double(), weight.double(), padding=1)
    return ours, [y, *torch.autograd.grad(y, (x, weight), grad.double())]


def assert_near(ours, exact, relative):
    for a, b in zip(ours, exact, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= relative * b.abs().max()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    channels=st.tuples(st.sampled_from([16, 48, 80]), st.sampled_from([16, 32, 112])),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    block=st.sampled_from([1, 7, 20, 512]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    threads=st.integers(1, 3),
)
def test_as_torchs_convolution(n, size, channels, memory_format, block, dtype, threads):
    inputs = arguments(size, channels, n, dtype)
    inputs = [each.detach().to(memory_format=memory_format).requires_grad_(each.requires_grad) for each in inputs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd_training_cpu, "GRADIENT_TILES", block)
        ours, exact = both_ways(*inputs, threads=threads)
    assert_near(ours, exact, 2e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_wide_convolutions_round_little(large):
    size = (40, 40) if large else (32, 32)
    assert has_large_tiles(*size) == large
    ours, exact = both_ways(*arguments(size, (256, 256)))
    root_mean_square, largest = (1e-5, 1e-4) if large else (3e-6, 3e-5)
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).square().mean().sqrt() < root_mean_square * b.std()
        assert (a - b).abs().max() < largest * b.std()


def test_strided_maps_weights_and_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 14, 64)[:, :, ::2, 3:35].permute(0, 3, 1, 2).requires_grad_()
    weight = torch.randn(48, 96, 3, 3).to(memory_format=torch.channels_last)[::2, 40:72][:, :, :, [2, 0, 1]]
    weight = weight[:16].requires_grad_()
    for grad in (torch.ones(()).expand(2, 16, 9, 7), torch.randn(9, 2, 7, 16).permute(1, 3, 0, 2)):
        assert_near(*both_ways(x, weight, grad), 1e-5)


def test_nothing_outside_is_read():
    def surrounded(*shape):
        memory = torch.full((3, *shape), torch.nan)
        memory[1] = 1
        return memory[1:2]

    x, grad = surrounded(11, 13, 16), surrounded(11, 13, 32)
    expected = torch.full((3, 3), 11.0 * 13)
    expected[[0, 2]] *= 10 / 11
    expected[:, [0, 2]] *= 12 / 13
    torch.testing.assert_close(weight_gradient(grad, x), expected.expand(32, 16, 3, 3))
    weight = torch.full((96, 16, 3, 3), torch.nan)
    weight[32:64] = 1
    y = conv3x3(grad, weight[32:64], True)
    assert y.isfinite().all()
    assert y[0, 5, 5, 3].item() == pytest.approx(9 * 32, rel=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads(threads):
    x, weight, grad = rows(*arguments((23, 17), (80, 48)))
    calls = [
        lambda: conv3x3(x, weight, False),
        lambda: conv3x3(grad, weight, True),
        lambda: weight_gradient(grad, x),
    ]
    for call in calls:
        assert torch.equal(on_threads(threads, call), on_threads(4, call))


def test_gradients_that_nobody_wants_are_not_computed():
    x, weight, grad = arguments((14, 11))
    once = 2 * 9 * x.numel() * weight.shape[0]
    for x_wanted, weight_wanted in ((True, True), (True, False), (False, True)):
        x.requires_grad_(x_wanted)
        weight.requires_grad_(weight_wanted)
        x.grad = weight.grad = None
        for kernel in ("winograd", "torch"):
            with use_kernel(upsample_conv3x3=kernel), FlopCounterMode(display=False) as counter:
                upsample_conv3x3([x], weight).backward(grad)
            assert counter.get_total_flops() == (1 + x_wanted + weight_wanted) * once
            assert (x.grad is not None, weight.grad is not None) == (x_wanted, weight_wanted)


def test_gradients_agree_with_finite_differences():
    x, weight, grad = rows(*arguments((5, 6), (16, 16), n=1, dtype=torch.float64), requires_grad=True)
    tap_maps = [torch.randn(1, *size, 9 * 16, dtype=torch.float64, requires_grad=True) for size in ((2, 3), (1, 1))]
    for function, inputs in (
        (lambda x, weight: conv3x3(x, weight, False), (x, weight)),
        (lambda grad, weight: conv3x3(grad, weight, True), (grad, weight)),
        (weight_gradient, (grad, x)),
        (lambda x, weight, *taps: conv3x3(x, weight, False, taps), (x, weight, *tap_maps)),
    ):
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.slow
def test_operators_are_registered_as_torch_wants_them():
    x, weight, grad = rows(*arguments((5, 6)), requires_grad=True)
    coarse = [torch.randn(2, 2, 3, 288, requires_grad=True), torch.randn(2, 1, 1, 288)]
    for args in ((x, weight, False, []), (grad, weight, True, []), (x, weight, False, coarse)):
        torch.library.opcheck(torch.ops.upernet.winograd_conv3x3.default, args)
    torch.library.opcheck(weight_gradient.default, (grad, x))


def test_where_it_is_chosen():
    def chosen(size, channels=(128, 128), **kwargs):
        x, weight, _ = arguments(size, channels, **kwargs)
        return choose_upsample_conv3x3([x], weight).kernel

    assert chosen((32, 32)) == "winograd"
    assert chosen((29, 29), n=2) == "winograd"
    assert chosen((32, 32), n=1) == "torch"
    assert chosen((28, 32)) == "torch"
    assert chosen((32, 32), (112, 128)) == chosen((32, 32), (128, 112)) == "torch"
    assert chosen((60, 60), (64, 96)) == chosen((60, 60), (96, 64)) == "winograd"
    assert chosen((56, 56), (64, 96)) == chosen((60, 60), (48, 96)) == "torch"
    assert chosen((32, 32), dtype=torch.float64) == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert chosen((32, 32)) == "torch"
    with use_kernel(**PLAIN):
        assert chosen((32, 32)) == "concat"
    x, weight, _ = arguments((32, 32), (128, 256))
    coarse = torch.randn(2, 128, 16, 16)
    assert choose_upsample_conv3x3([x[:, :128], coarse], torch.cat([weight, weight], dim=1)).kernel == "winograd"


def test_a_compiled_network_keeps_conv2d():
    x, weight, grad = arguments((32, 32), (128, 128))
    called = []

    def backend(graph, inputs):
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch.compiler.reset()
    y = torch.compile(upsample_conv3x3, backend=backend, fullgraph=True)([x], weight)
    ours = torch.autograd.grad(y, (x, weight), grad)
    assert any("conv2d" in each for each in called) and not any("upernet" in each for each in called)
    exact = torch.autograd.grad(F.conv2d(x.double(), weight.double(), padding=1), (x, weight), grad.double())
    assert_near(ours, exact, 1e-5)


def test_gradients_inside_autocast_of_what_was_computed_outside():
    x, weight, grad = arguments((9, 8))
    with use_kernel(upsample_conv3x3="winograd"):
        y = upsample_conv3x3([x], weight)
    with torch.autocast("cpu", torch.bfloat16):
        ours = torch.autograd.grad(y, (x, weight), grad)
    exact = torch.autograd.grad(F.conv2d(x.double(), weight.double(), padding=1), (x, weight), grad.double())
    assert_near(ours, exact, 1e-5)


def test_shapes_and_types_that_do_not_fit():
    x, weight, grad = rows(*arguments((5, 6)))
    with pytest.raises(ValueError, match="does not fit"):
        conv3x3(x, weight, True)
    with pytest.raises(ValueError, match="multiple of 16"):
        conv3x3(x, weight[:24], False)
    with pytest.raises(ValueError, match="differ in dtype"):
        conv3x3(x.double(), weight, False)
    with pytest.raises(ValueError, match="no other kernel"):
        conv3x3(x.bfloat16(), weight.bfloat16(), False)
    with pytest.raises(ValueError, match="agree in N, H and W"):
        weight_gradient(grad[:, 1:], x)
    with pytest.raises(ValueError, match="differ in dtype"):
        weight_gradient(grad.double(), x)
