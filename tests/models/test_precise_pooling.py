"""Tests of upernet.models.precise_pooling: PrRoIPool over whole maps, and its place in pyramid pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.shared import REFERENCE, needs_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from upernet.models.decoder import ConvBnRelu, PyramidPooling
from upernet.models.precise_pooling import bin_weights, precise_pool


@needs_reference
@pytest.mark.golden
def test_the_means_are_those_of_the_published_operator() -> None:
    with np.load(REFERENCE / "golden" / "prroi.npz") as file:
        facts = {key: torch.from_numpy(file[key]) for key in file.files}
    for key, maps in facts.items():
        case, _, kind = key.partition("/")
        if kind == "in":
            bins = int(case.rpartition("s")[2])
            torch.testing.assert_close(precise_pool(maps[None, None], bins)[0, 0], facts[f"{case}/out"])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 24), st.integers(1, 8), st.integers(0, 100))
def test_weights_integrate_the_interpolation(length: int, bins: int, seed: int) -> None:
    """The reference samples the interpolation of the row, which is 0 one pixel outside of it, at many points."""
    row = np.random.default_rng(seed).standard_normal(length)
    steps = 2000
    positions = (np.arange(bins * steps) + 0.5) * (length / (bins * steps))
    values = np.interp(positions, np.arange(-1, length + 1), [0, *row, 0])
    means = torch.from_numpy(values.reshape(bins, steps).mean(axis=1))
    values = torch.from_numpy(row)
    torch.testing.assert_close(bin_weights(length, bins, values) @ values, means, atol=1e-4, rtol=0)
    exact, rounded = bin_weights(length, bins, values), bin_weights(length, bins, values.float())
    torch.testing.assert_close(rounded.double(), exact, atol=1e-6, rtol=0)


def test_the_gradient_is_that_of_the_sum() -> None:
    maps = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: precise_pool(x, 3), maps)


@pytest.mark.parametrize("training", [False, True])
def test_the_resize_may_follow_the_convolution_but_not_the_relu(training: bool) -> None:
    torch.manual_seed(0)
    pooling = PyramidPooling(16, 8, (1, 2, 3, 6), pool_channels=12, precise=True).double().train(training)
    for module in pooling.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    c5 = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    resized = [F.interpolate(precise_pool(c5, scale), size=(5, 7), mode="bilinear") for scale in (1, 2, 3, 6)]
    layers = [layer for layer in pooling.pooled if isinstance(layer, ConvBnRelu)]
    expected = pooling.bottleneck(c5, *(layer(x) for layer, x in zip(layers, resized, strict=True)))
    torch.testing.assert_close(pooling(c5), expected)
