"""Tests of upernet.ops.conv3x3.winograd and packed_weights, compared with torch's convolution."""

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.winograd import largest_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from upernet.ops import upsample_conv3x3, use_kernel
from upernet.ops.conv3x3 import packed_weights
from upernet.ops.conv3x3.packed_weights import PackedWeights, fingerprint
from upernet.ops.conv3x3.winograd_cpu import BLOCK_PIXELS, block_rows, tile_side
from upernet.ops.conv3x3.winograd_weights_cpu import tap_panels
from upernet.ops.runtime.matmul import PackedMatmul


@pytest.fixture(autouse=True)
def _winograd():
    with use_kernel(upsample_conv3x3="winograd"), torch.no_grad():
        yield


def near(y, expected, height, width):
    """Compare with the error of small or large tiles."""
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=largest_error(height, width, 3e-5))


def reference(x, weight, scale=None, shift=None, relu=False):
    y = F.conv2d(x.double(), weight.double(), padding=1)
    if scale is not None:
        y = y * scale.double().view(-1, 1, 1) + shift.double().view(-1, 1, 1)
    return y.relu() if relu else y


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 2),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    channels=st.tuples(st.sampled_from([16, 48, 80]), st.sampled_from([16, 32, 112])),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    scaled=st.booleans(),
    relu=st.booleans(),
    threads=st.integers(1, 3),
)
def test_as_torchs_convolution(n, size, channels, memory_format, scaled, relu, threads):
    torch.manual_seed(0)
    x = torch.randn(n, channels[0], *size).to(memory_format=memory_format)
    weight = torch.randn(channels[1], channels[0], 3, 3) / (9 * channels[0]) ** 0.5
    scale, shift = (torch.randn(channels[1]), torch.randn(channels[1])) if scaled else (None, None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = upsample_conv3x3([x], weight, scale, shift, relu)
    finally:
        torch.set_num_threads(before)
    assert y.is_contiguous(memory_format=torch.channels_last)
    near(y, reference(x, weight, scale, shift, relu), *size)
    exact = upsample_conv3x3([x.double()], weight.double())
    torch.testing.assert_close(exact, reference(x, weight), rtol=0, atol=1e-12)


def test_strided_views_and_weights():
    x = torch.randn(2, 9, 14, 64)[:, :, ::2, 3:35].permute(0, 3, 1, 2)
    weight = torch.randn(32, 32, 3, 3).to(memory_format=torch.channels_last)
    torch.testing.assert_close(upsample_conv3x3([x], weight).double(), reference(x, weight), rtol=0, atol=1e-3)


def test_several_blocks_of_tiles():
    for side in (4, 6):
        assert block_rows(side, BLOCK_PIXELS, side) == block_rows(100, 9 * BLOCK_PIXELS, side) == side
        for height in (3, 4, 61, 128, 513):
            block = block_rows(height, 132, side)
            assert block % side == 0 and block * 132 <= BLOCK_PIXELS
    for size in ((75, 130), (130, 75), (132, 128)):
        x, weight = torch.randn(1, 16, *size), torch.randn(16, 16, 3, 3) / 12
        near(upsample_conv3x3([x], weight), reference(x, weight), *size)


def test_large_tiles_take_fewer_products():
    weight, bfloat16 = tap_panels(torch.randn(16, 16, 3, 3)), PackedMatmul(torch.randn(36, 16, 16))
    assert [tile_side(side, side, weight) for side in (1, 4, 6, 16, 32, 64, 128, 160)] == [4, 4, 6, 4, 4, 6, 6, 6]
    assert tile_side(128, 128, bfloat16) == 4


def test_wide_convolutions_round_little():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 512, 20, 20).relu(), torch.randn(64, 512, 3, 3)
    expected = reference(x, weight)
    assert (upsample_conv3x3([x], weight) - expected).abs().max() < 3e-5 * expected.std()


def test_nothing_outside_the_map_is_read():
    memory = torch.full((3, 11, 13, 32), torch.nan)
    x = memory[1:2]
    x[:] = 1
    y = upsample_conv3x3([x.permute(0, 3, 1, 2)], torch.ones(16, 32, 3, 3))
    assert y.isfinite().all()
    assert y[0, 0, 5, 5].item() == pytest.approx(9 * 32, rel=1e-5)
    assert y[0, 0, 0, 0].item() == pytest.approx(4 * 32, rel=1e-5)


def test_what_is_not_a_number_stays_so():
    x = torch.ones(1, 16, 9, 9)
    x[0, 3, 4, 4] = torch.nan
    y = upsample_conv3x3([x], torch.ones(16, 16, 3, 3), relu=True)
    assert y[0, :, 3:6, 3:6].isnan().all()


def _edit_in_place(weight, new):
    weight.copy_(new)


def _edit_data(weight, new):
    weight.data.copy_(new)


def _edit_with_numpy(weight, new):
    weight.detach().numpy()[...] = new.numpy()


def _edit_one_number(weight, new):
    weight.data[5, 7, 1, 2] += 1


def _step(weight, new):
    weight.grad = torch.randn_like(weight)
    torch.optim.SGD([weight], lr=0.1).step()


def _load(weight, new):
    conv = nn.Conv2d(16, 16, 3, bias=False)
    conv.weight = weight
    conv.load_state_dict({"weight": new})


@pytest.mark.parametrize("edit", [_edit_in_place, _edit_data, _edit_with_numpy, _edit_one_number, _step, _load])
def test_weights_that_change_after_a_pass(edit):
    x, weight = torch.randn(1, 16, 8, 8), nn.Parameter(torch.randn(16, 16, 3, 3))
    before = upsample_conv3x3([x], weight)
    edit(weight, torch.randn(16, 16, 3, 3))
    after = upsample_conv3x3([x], weight)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after.double(), reference(x, weight), rtol=0, atol=1e-3)


def test_inference_tensors_that_change_after_a_pass():
    with torch.inference_mode():
        x, weight = torch.randn(1, 16, 8, 8), torch.randn(16, 16, 3, 3)
        upsample_conv3x3([x], weight)
        weight.mul_(2)
        torch.testing.assert_close(upsample_conv3x3([x], weight).double(), reference(x, weight), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_forms_are_kept_with_the_weight_and_no_longer():
    weight = nn.Parameter(torch.randn(16, 32, 3, 3))
    panels = PackedWeights(weight).winograd([range(0, 32)]).panels
    assert panels is PackedWeights(weight).taps(range(16, 32)).panels
    upsample_conv3x3([torch.randn(1, 32, 5, 5)], weight)
    assert panels is PackedWeights(weight).winograd([range(0, 16)]).panels
    gc.collect()
    before = len(packed_weights._cache)
    del weight
    gc.collect()
    assert len(packed_weights._cache) == before - 1


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 300_000), data=st.data())
def test_a_fingerprint_tells_any_single_bit(count, data):
    x = torch.from_numpy(np.random.default_rng(count).standard_normal(count).astype(np.float32))
    before = fingerprint(x)
    assert fingerprint(x.clone()) == before
    place, bit = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, 31))
    x.numpy().view(np.uint32)[place] ^= np.uint32(1 << bit)
    assert fingerprint(x) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", ["all signs", "two filters", "two signs", "two exponents"])
def test_weights_that_change_only_in_their_highest_bits_are_noticed(dtype, change):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 64, 16, 16, dtype=dtype), torch.randn(64, 64, 3, 3, dtype=dtype)
    with torch.no_grad(), use_kernel(upsample_conv3x3="winograd"):
        before = upsample_conv3x3([x], weight)
        if change == "all signs":
            weight.neg_()
        elif change == "two filters":
            weight[:2].neg_()
        else:  # 64 words of 32 bits apart, which the fingerprint takes one after the other
            words = 64 // (dtype.itemsize // 4)
            weight.view(-1)[: 2 * words : words] *= -1 if change == "two signs" else 2
        after = upsample_conv3x3([x], weight)
    torch.testing.assert_close(after, F.conv2d(x, weight, padding=1), rtol=0, atol=2e-3)
    assert not torch.equal(before, after)
