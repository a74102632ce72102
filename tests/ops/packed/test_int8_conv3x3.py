"""Tests of upernet.ops.packed.conv3x3, compared with the same layers in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.ops import int8_unavailable, lateral, upsample_conv3x3, use_kernel
from upernet.ops.conv3x3.winograd_axes_cpu import P, Q
from upernet.ops.conv3x3.winograd_weights_cpu import tap_panels, transform_panels
from upernet.ops.packed.conv3x3 import Int8Conv3x3, Int8Lateral
from upernet.ops.packed.ranges import Range, TileRange
from upernet.ops.runtime.matmul import MAX_INT8

pytestmark = pytest.mark.skipif(bool(int8_unavailable()), reason=f"int8: {int8_unavailable()}")


COARSENESS = 127 / MAX_INT8
"""How much larger the steps of weights are than those of eight bits; without VNNI, weights have seven."""


def observed(kind, x):
    found = kind()
    found.observe(x)
    return found


def int8_conv3x3(weight, maps):
    return Int8Conv3x3(weight, [observed(Range, x) for x in maps], [observed(TileRange, x) for x in maps])


def mean_error(found, expected):
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 2),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    others=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=2),
    channels=st.tuples(st.sampled_from([16, 48]), st.sampled_from([16, 32, 80])),
    positive=st.booleans(),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    relu=st.booleans(),
)
def test_convolutions_of_resized_maps(n, size, others, channels, positive, memory_format, relu):
    torch.manual_seed(0)
    sizes = [size, *((min(h, size[0]), min(w, size[1])) for h, w in others)]
    maps = [torch.randn(n, channels[0], *each).to(memory_format=memory_format) for each in sizes]
    maps = [x.relu() for x in maps] if positive else maps
    weight = torch.randn(channels[1], channels[0] * len(maps), 3, 3) / (9 * channels[0]) ** 0.5
    scale, shift = torch.rand(channels[1]) + 0.5, torch.randn(channels[1])
    with torch.no_grad():
        found = int8_conv3x3(weight, maps)(maps, scale, shift, relu)
        with use_kernel(upsample_conv3x3="concat"):
            double = [x.double() for x in maps]
            expected = upsample_conv3x3(double, weight.double(), scale.double(), shift.double(), relu)
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == torch.float32
    assert mean_error(found, expected) < 0.15 * COARSENESS  # Winograd's transforms magnify the rounding of eight bits


def test_rounding_is_small_where_numbers_are_spread_evenly():
    torch.manual_seed(0)
    maps = [torch.rand(1, 256, 32 // 2**k, 32 // 2**k) for k in range(3)]
    weight = torch.randn(64, 3 * 256, 3, 3) / 48
    with torch.no_grad():
        found = int8_conv3x3(weight, maps)(maps, torch.ones(64), torch.zeros(64), False)
        expected = upsample_conv3x3(maps, weight)
    assert 1e-4 < mean_error(found, expected) < 0.03 * COARSENESS


def test_one_convolution_takes_maps_of_all_sizes():
    torch.manual_seed(0)
    maps = [torch.randn(1, 16, 24, 20), torch.randn(1, 16, 12, 10)]
    weight = torch.randn(16, 32, 3, 3) / 17
    one, zero = torch.ones(16), torch.zeros(16)
    with torch.no_grad():
        conv3x3 = int8_conv3x3(weight, maps)
        for sizes in [((24, 20), (12, 10)), ((8, 8), (7, 8)), ((5, 6), (5, 6)), ((3, 50), (1, 1))]:
            others = [torch.randn(2, 16, *size).clamp(-2, 2) for size in sizes]
            assert mean_error(conv3x3(others, one, zero, False), upsample_conv3x3(others, weight)) < 0.15 * COARSENESS


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 2),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    coarse=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.tuples(st.integers(1, 70), st.sampled_from([16, 64])),
)
def test_lateral_connections(n, size, coarse, channels):
    torch.manual_seed(0)
    x, top = torch.randn(n, channels[0], *size), torch.randn(n, channels[1], *coarse)
    weight, scale = torch.randn(channels[1], channels[0], 1, 1) / channels[0] ** 0.5, torch.rand(channels[1])
    shift = torch.randn(channels[1])
    with torch.no_grad():
        found = Int8Lateral(weight, observed(Range, x))(x, scale, shift, top)
        expected = lateral(x, weight, scale, shift, top)
    assert mean_error(found, expected) < 0.03 * COARSENESS


def input_matrix():
    """Return Winograd's 6 x 6 matrix of the inputs, for the points 0, P, -P, Q, -Q and infinity (arXiv 1509.09308)."""
    total = P**2 + Q**2
    rows = [[1.0, 0.0, -total, 0.0, 1.0, 0.0]]
    for point, other in ((P, Q), (Q, P)):
        rows += [[0.0, -(other**2) * x, -(other**2), x, 1.0, 0.0] for x in (point, -point)]
    return torch.tensor([*rows, [0.0, 1.0, 0.0, -total, 0.0, 1.0]], dtype=torch.float64)


def transformed_tiles(x):
    """Return the transformed inputs of x N x C x H x W in tiles of 4 x 4 outputs: N x 36 x C x tiles."""
    images, channels, height, width = x.shape
    tiles = F.pad(x, (1, 1 + -width % 4, 1, 1 + -height % 4)).unfold(2, 6, 4).unfold(3, 6, 4)
    matrix = input_matrix().to(x)
    transformed = matrix @ tiles @ matrix.T
    return transformed.flatten(4).permute(0, 4, 1, 2, 3).reshape(images, 36, channels, -1)


@pytest.mark.parametrize("size", [(1, 1), (8, 12), (7, 18)])
def test_ranges_of_tiles_are_those_of_the_transformed_inputs(size):
    torch.manual_seed(0)
    x = torch.randn(2, 32, *size)
    expected = transformed_tiles(x.double()).abs().amax((0, 2, 3))
    torch.testing.assert_close(observed(TileRange, x).largest.double(), expected, rtol=1e-5, atol=1e-5)


def test_transformed_tiles_and_weights_give_the_convolution():
    """The matrices are those of the transforms in the kernel: with its weights, the products are the convolution's."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 16, 8, 12, dtype=torch.float64), torch.randn(32, 16, 3, 3, dtype=torch.float64)
    panels = transform_panels(tap_panels(weight)).transpose(2, 3).flatten(1, 2)[:, :32]  # 36 x D x C
    products = torch.einsum("gdc,gct->dgt", panels, transformed_tiles(x)[0])
    points = torch.tensor([0, P, -P, Q, -Q], dtype=torch.float64)
    outputs = torch.stack([points**power for power in range(4)])
    outputs = torch.cat((outputs, torch.tensor([[0.0], [0], [0], [1]], dtype=torch.float64)), 1)  # 4 x 6
    outputs[0, 0] = 1
    tiles = outputs @ products.unflatten(1, (6, 6)).permute(0, 3, 1, 2) @ outputs.T
    found = tiles.unflatten(1, (2, 3)).permute(0, 1, 3, 2, 4).reshape(32, 8, 12)
    torch.testing.assert_close(found, torch.nn.functional.conv2d(x, weight, padding=1)[0])
