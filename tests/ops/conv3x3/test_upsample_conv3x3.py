"""Tests of upernet.ops.conv3x3 and upernet.ops.lateral, compared with the reference."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from helpers.winograd import largest_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from upernet.models.decoder import FeaturePyramid, Fusion, PyramidPooling
from upernet.ops import (
    PLAIN,
    choose_lateral,
    choose_upsample_conv3x3,
    lateral,
    release_memory,
    upsample_conv3x3,
    use_kernel,
)
from upernet.ops.conv3x3 import taps_cpu, winograd_cpu
from upernet.ops.conv3x3.taps import upsample_taps
from upernet.ops.lateral import cpu as lateral_cpu
from upernet.ops.runtime.availability import numba_unavailable

SIZES = st.tuples(st.integers(1, 21), st.integers(1, 21))
SIDES = [(31, 23), (16, 12), (8, 6), (4, 3)]
ROW = torch.ones(16), torch.zeros(16)
KERNELS = ["concat", "torch", "matrices", "direct", "winograd"]


def resize(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def plain(maps, weight):
    return F.conv2d(torch.cat([resize(x, maps[0].shape[2:]) for x in maps], dim=1), weight, padding=1)


def arguments(sizes, n=1, channels=16, width=16, dtype=torch.float32):
    torch.manual_seed(0)
    maps = [torch.randn(n, channels, *size, dtype=dtype) for size in sizes]
    return maps, torch.randn(width, channels * len(sizes), 3, 3, dtype=dtype) / (9 * channels * len(sizes)) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=4),
    n=st.integers(1, 2),
    last=st.booleans(),
    relu=st.booleans(),
    threads=st.integers(1, 3),
)
def test_as_the_plain_way_in_float64(kernel, sizes, n, last, relu, threads):
    maps, weight = arguments(sizes, n, channels=32, width=48)
    scale, shift = torch.randn(48), torch.randn(48)
    expected = plain([x.double() for x in maps], weight.double())
    expected = expected * scale.double().view(-1, 1, 1) + shift.double().view(-1, 1, 1)
    if last:
        maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with use_kernel(upsample_conv3x3=kernel), torch.no_grad():
            y = upsample_conv3x3(maps, weight, scale, shift, relu)
    finally:
        torch.set_num_threads(before)
    atol = largest_error(*sizes[0], 5e-5) if kernel == "winograd" else 5e-5
    torch.testing.assert_close(y.double(), expected.relu() if relu else expected, rtol=0, atol=atol)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    size=SIZES,
    coarse_size=SIZES,
    n=st.integers(1, 2),
    last=st.booleans(),
    pixels=st.sampled_from([1, 20, 1024]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_lateral(size, coarse_size, n, last, pixels, dtype):
    torch.manual_seed(0)
    x, coarse = torch.randn(n, 16, *size, dtype=dtype), torch.randn(n, 48, *coarse_size, dtype=dtype)
    weight, scale, shift = torch.randn(48, 16, 1, 1, dtype=dtype), *torch.randn(2, 48, dtype=dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert choose_lateral(x, weight, coarse).kernel == "numba"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lateral_cpu, "PIXELS_PER_STEP", pixels)
        y = lateral(x, weight, scale, shift, coarse)
    entered = torch.einsum("nchw,dc->ndhw", x.double(), weight.double().flatten(1))
    entered = (entered * scale.double().view(-1, 1, 1) + shift.double().view(-1, 1, 1)).relu()
    expected = entered + resize(coarse.double(), size)
    tolerance = {"rtol": 0, "atol": 5e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(y, expected.to(dtype), **tolerance)
    with use_kernel(lateral="torch"):
        torch.testing.assert_close(lateral(x, weight, scale, shift, coarse), y, **tolerance)
    factors = [scale.requires_grad_(), shift]
    assert choose_lateral(x, weight, coarse, *factors).kernel == "torch"
    assert torch.autograd.grad(lateral(x, weight, *factors, coarse).sum(), scale)[0].isfinite().all()
    assert choose_lateral(x, weight, coarse.requires_grad_()).kernel == "torch"


def test_many_bands_of_coarse_rows(monkeypatch):
    monkeypatch.setattr(winograd_cpu, "BLOCK_PIXELS", 3 * 6**2)
    monkeypatch.setattr(taps_cpu, "GEMM_ROWS", 2)
    for sizes in ([(61, 9), (31, 5), (16, 3), (8, 2)], [(50, 12), (7, 30), (3, 1), (49, 2)]):
        maps, weight = arguments(sizes, dtype=torch.float64)
        with use_kernel(upsample_conv3x3="winograd"), torch.no_grad():
            torch.testing.assert_close(upsample_conv3x3(maps, weight), plain(maps, weight))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["direct", "winograd"])
@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(SIZES, min_size=2, max_size=4), n=st.integers(1, 2))
def test_gradients_as_the_plain_way(kernel, sizes, n):
    maps, weight = arguments(sizes, n, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (*maps, weight)]
    with use_kernel(upsample_conv3x3=kernel):
        y = upsample_conv3x3(maps, weight)
    expected = plain(maps, weight)
    torch.testing.assert_close(y, expected)
    into = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, into), torch.autograd.grad(expected, inputs, into), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    products = [torch.randn(1, *size, 9 * 16, dtype=torch.float64, requires_grad=True) for size in ((2, 3), (1, 2))]

    def function(*products):
        return upsample_taps(products, 5, 4)[..., ::5]

    assert torch.autograd.gradcheck(function, products)
    assert torch.autograd.gradgradcheck(function, products)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_gradients_do_not_depend_on_threads(threads):
    grad = torch.randn(2, 23, 17, 32)
    expected = torch.ops.upernet.upsample_taps_gradient(grad, 6, 5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(torch.ops.upernet.upsample_taps_gradient(grad, 6, 5), expected)
    finally:
        torch.set_num_threads(before)


def test_nothing_outside_the_maps_is_read():
    def surrounded(*shape):
        memory = torch.full((3, *shape), torch.nan)
        memory[1] = 1
        return memory[1:2]

    maps = [surrounded(height, width, 16).permute(0, 3, 1, 2) for height, width in ((13, 10), (7, 5), (3, 3), (1, 1))]
    weight = torch.ones(16, 64, 3, 3)
    for kernel in ("direct", "winograd"):
        with use_kernel(upsample_conv3x3=kernel), torch.no_grad():
            torch.testing.assert_close(upsample_conv3x3(maps, weight), plain(maps, weight), rtol=1e-5, atol=0)
    assert torch.ops.upernet.upsample_taps_gradient(surrounded(9, 7, 16), 3, 2).isfinite().all()


@pytest.mark.slow
def test_operators_are_registered_as_torch_wants_them():
    products = [torch.randn(1, 2, 3, 144, requires_grad=True), torch.randn(1, 1, 1, 144, requires_grad=True)]
    torch.library.opcheck(torch.ops.upernet.upsample_taps.default, (products, 5, 4))
    torch.library.opcheck(
        torch.ops.upernet.upsample_taps_gradient.default, (torch.randn(1, 5, 4, 16, requires_grad=True), 2, 3)
    )
    maps, weight = arguments([(9, 8), (5, 4), (2, 2)])
    torch.library.opcheck(torch.ops.upernet.lateral.default, (maps[0], torch.randn(16, 16, 1, 1), *ROW, maps[1]))
    for by_winograd in (False, True):
        arguments_ = (maps, weight, torch.randn(16), None, True, by_winograd)
        torch.library.opcheck(torch.ops.upernet.upsample_conv3x3.default, arguments_)


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 64])
def test_traced_as_one_operator(width):
    numba_unavailable.cache_clear()
    torch.compiler.reset()
    maps, weight = arguments([(17, 16), (8, 8), (2, 2)], channels=width, width=width)

    class Fuse(torch.nn.Module):
        def forward(self, *maps):
            return upsample_conv3x3(maps, weight, relu=True)

    with torch.no_grad():
        assert choose_upsample_conv3x3(maps, weight).kernel == ("direct" if width < 64 else "winograd")
        program = torch.export.export(Fuse(), tuple(maps))
        called = [node.target for node in program.graph.nodes if node.op == "call_function"]
        assert called == [torch.ops.upernet.upsample_conv3x3.default]
        torch.testing.assert_close(program.module()(*maps), plain(maps, weight).relu(), rtol=0, atol=5e-5)
        compiled = torch.compile(Fuse(), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(*maps), plain(maps, weight).relu(), rtol=0, atol=5e-5)


def test_multiplications_are_counted_where_they_are_done():
    maps, weight = arguments([(16, 16), (8, 8), (4, 4)], n=2)
    per_channel = 9 * 16 * 16 * 2
    for kernel, pixels in (("concat", 3 * 256), ("direct", 256 + 64 + 16), ("winograd", 256 + 64 + 16)):
        with use_kernel(upsample_conv3x3=kernel), torch.no_grad(), FlopCounterMode(display=False) as counter:
            upsample_conv3x3(maps, weight)
        assert counter.get_total_flops() == 2 * per_channel * pixels
    weight.requires_grad_()
    with use_kernel(upsample_conv3x3="direct"), FlopCounterMode(display=False) as counter:
        upsample_conv3x3(maps, weight)
    assert counter.get_total_flops() == 2 * per_channel * (256 + 64 + 16)


def test_the_kernel_is_chosen_from_the_arguments():
    maps, weight = arguments([(16, 16), (8, 8)], channels=64, width=64)
    assert choose_upsample_conv3x3(maps, weight).kernel == "winograd"
    assert choose_upsample_conv3x3(maps, weight.clone().requires_grad_()).kernel == "direct"
    assert choose_upsample_conv3x3(maps[:1], weight[:, :64].requires_grad_()).kernel == "torch"
    with torch.no_grad():
        assert choose_upsample_conv3x3(maps, weight).kernel == "winograd"
    small, _ = arguments([(12, 16), (3, 4)], channels=64)
    assert choose_upsample_conv3x3(small, weight.detach()).kernel == "direct"
    assert choose_upsample_conv3x3([x.bfloat16() for x in maps], weight).kernel == "torch"
    assert choose_upsample_conv3x3([x.to("meta") for x in maps], weight.to("meta")).kernel == "torch"
    assert choose_upsample_conv3x3([torch.randn(1, 24, 16, 16)], torch.randn(64, 24, 3, 3)).kernel == "torch"
    assert choose_upsample_conv3x3([torch.randn(0, 64, 16, 16)], torch.randn(64, 64, 3, 3)).kernel == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_upsample_conv3x3(maps, weight).kernel == "torch"
    with (
        use_kernel(upsample_conv3x3="other"),
        pytest.raises(ValueError, match="concat, torch, matrices, direct, winograd"),
    ):
        upsample_conv3x3(maps, weight)


WITHOUT_NUMBA = """
import sys, warnings
sys.modules["numba"] = None
import torch
from upernet.ops import choose_upsample_conv3x3, upsample_conv3x3, use_kernel
maps, weight = [torch.randn(1, 64, 16, 16), torch.randn(1, 64, 8, 8)], torch.randn(64, 128, 3, 3)
with warnings.catch_warnings(record=True) as caught, torch.no_grad():
    warnings.simplefilter("always")
    out = upsample_conv3x3(maps, weight)
    upsample_conv3x3(maps, weight)
assert ["Numba does not run here" in str(warning.message) for warning in caught] == [True], caught
choice = choose_upsample_conv3x3(maps, weight)
assert choice.kernel == "torch" and "Numba" in choice.reason
with use_kernel(upsample_conv3x3="concat"), torch.no_grad():
    torch.testing.assert_close(out, upsample_conv3x3(maps, weight), rtol=1e-4, atol=1e-3)
"""


@pytest.mark.process
@pytest.mark.slow
def test_without_numba():
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_several_threads_share_weights():
    maps, weight = arguments([(20, 20), (10, 10), (5, 5)], channels=64, width=64)
    expected = plain(maps, weight)
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        for y in pool.map(lambda _: upsample_conv3x3(maps, weight), range(12)):
            torch.testing.assert_close(y, expected, rtol=0, atol=5e-5)


def test_the_decoder_follows_its_weights_and_statistics():
    torch.manual_seed(0)
    ppm, fpn, fusion = PyramidPooling(32, 64), FeaturePyramid([16, 16, 32], 64), Fusion(64)
    decoder = nn.ModuleList([ppm, fpn, fusion])
    features = [torch.randn(2, channels, *size) for channels, size in zip((16, 16, 32, 32), SIDES, strict=True)]

    def decode():
        return fusion(fpn(features[:-1], ppm(features[-1])))

    def check():
        decoder.eval()
        with torch.no_grad():
            fast = decode()
            with use_kernel(**PLAIN):
                expected = decode()
            assert (fast - expected).abs().max() < 1e-4 * expected.std()
        return fast

    before = check()
    state = {key: value + 0.1 if value.is_floating_point() else value for key, value in decoder.state_dict().items()}
    decoder.load_state_dict(state)
    after = check()
    assert not torch.allclose(before, after, atol=1e-3)

    decoder.train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.05)
    decode().square().mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    optimizer.step()
    assert not torch.allclose(check(), after, atol=1e-3)


def test_the_decoder_learns_the_same_either_way():
    torch.manual_seed(0)
    decoder = nn.ModuleList([PyramidPooling(32, 32), FeaturePyramid([16, 16, 32], 32), Fusion(32)]).double()
    gradients = []
    for kernels in ({}, PLAIN):
        generator = torch.Generator().manual_seed(1)
        features = [
            torch.randn(2, channels, *size, dtype=torch.float64, generator=generator).requires_grad_()
            for channels, size in zip((16, 16, 32, 32), SIDES, strict=True)
        ]
        with use_kernel(**kernels):
            ppm, fpn, fusion = decoder
            loss = fusion(fpn(features[:-1], ppm(features[-1]))).square().mean()
            gradients.append(torch.autograd.grad(loss, [*features, *decoder.parameters()]))
    torch.testing.assert_close(*gradients)


def test_numba_is_tried_with_real_tensors_first_use_or_not():
    numba_unavailable.cache_clear()
    with FakeTensorMode():
        maps, weight = arguments([(16, 16), (8, 8)], channels=64, width=64)
        assert choose_upsample_conv3x3(maps, weight).kernel == "winograd"
        assert upsample_conv3x3(maps, weight).stride() == (16 * 16 * 64, 1, 16 * 64, 64)


def test_shapes_that_do_not_fit():
    maps, weight = arguments([(9, 8), (5, 4)])
    for kernel in KERNELS:
        with use_kernel(upsample_conv3x3=kernel):
            for wrong in ([maps[0]], [maps[0], maps[1][0]], [maps[0], maps[1].repeat(2, 1, 1, 1)]):
                with pytest.raises(ValueError, match="upsample_conv3x3"):
                    upsample_conv3x3(wrong, weight)
            with pytest.raises(ValueError, match="16 values"):
                upsample_conv3x3(maps, weight, torch.ones(15))
    with use_kernel(upsample_conv3x3="winograd"):
        with pytest.raises(ValueError, match="channels are not a multiple of 16"):
            upsample_conv3x3([torch.randn(1, 24, 5, 5)], torch.randn(16, 24, 3, 3))
        with pytest.raises(ValueError, match="outputs are not a multiple of 16"):
            upsample_conv3x3([torch.randn(1, 16, 5, 5)], torch.randn(24, 16, 3, 3))
    with pytest.raises(ValueError, match="does not fit"):
        torch.ops.upernet.upsample_conv3x3(maps, weight[:, :16], None, None, False, True)
    kernel = torch.ones(16, 16, 1, 1)
    with pytest.raises(ValueError, match="does not fit"):
        lateral(maps[0], kernel, *ROW, maps[1][:, :8])
    with pytest.raises(ValueError, match="one N"):
        lateral(maps[0], kernel, *ROW, maps[1].repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="values"):
        lateral(maps[0], kernel, torch.ones(16), torch.ones(1), maps[1])
    for products in ([], [torch.zeros(1, 0, 5, 144)]):
        with pytest.raises(ValueError, match="not empty"):
            upsample_taps(products, 4, 4)
    with pytest.raises(ValueError, match="multiple of 16"):
        upsample_taps([torch.randn(1, 2, 2, 9 * 8)], 4, 4)
    with pytest.raises(ValueError, match="multiple of 16"):
        torch.ops.upernet.upsample_taps_gradient(torch.randn(1, 4, 4, 8), 2, 2)


def test_strided_factors():
    maps, weight = arguments([(9, 8), (5, 4)])
    factors = torch.randn(16, 2)
    with use_kernel(upsample_conv3x3="winograd"):
        y = upsample_conv3x3(maps, weight, factors[:, 0], factors[:, 1])
    expected = plain(maps, weight) * factors[:, 0].view(-1, 1, 1) + factors[:, 1].view(-1, 1, 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=5e-5)
    kernel = torch.randn(16, 16, 1, 1)
    y = lateral(maps[0], kernel, factors[:, 0], factors[:, 1], maps[1])
    with use_kernel(lateral="torch"):
        expected = lateral(maps[0], kernel, factors[:, 0], factors[:, 1], maps[1])
    torch.testing.assert_close(y, expected, rtol=0, atol=5e-5)


def test_a_large_result_is_not_overwritten_while_somebody_has_it():
    release_memory()  # of other tests
    maps, weight = [torch.randn(1, 64, 160, 128)], torch.randn(64, 64, 3, 3)  # 5 MiB
    with torch.no_grad():
        first = upsample_conv3x3(maps, weight)
        part, address, copy = first[:, 5:9, 7:], first.data_ptr(), first[:, 5:9, 7:].clone()
        del first
        second = upsample_conv3x3(maps, 2 * weight)
        assert second.data_ptr() != address and torch.equal(part, copy)
        del part, copy
        third = upsample_conv3x3(maps, weight)
        assert third.data_ptr() == address, "memory that nobody has is not used again"
        torch.testing.assert_close(second, 2 * third, rtol=1e-4, atol=1e-3)


LARGE_RESULTS_IN_TWO_PROCESSES = """
import os, torch
from upernet.ops import upsample_conv3x3
maps, weight = [torch.randn(1, 160, 128, 64).permute(0, 3, 1, 2)], torch.randn(64, 64, 3, 3)
with torch.no_grad():
    kept, lost = upsample_conv3x3(maps, weight), upsample_conv3x3(maps, weight)
    copy = kept.clone()
    del lost
    child = os.fork()
    for _ in range(3):
        upsample_conv3x3(maps, weight)
    if not child:  # where torch's own parallel operations would wait for ever
        kept.numpy()[:] = 7
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0 and torch.equal(kept, copy)
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_results_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", LARGE_RESULTS_IN_TWO_PROCESSES], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
