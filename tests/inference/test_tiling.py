"""Tests of upernet.inference.tiling: photos of any size give the same logits, whole or in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.painted_network import PaintedNetwork, four_quarters, paint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from upernet.inference.tiling import dense_logits, logits_of_batch, tiles

sides = st.integers(1, 60).map(lambda n: 32 * n)


@pytest.mark.slow
@given(height=sides, width=sides, tile=st.integers(2, 12), overlap=st.integers(1, 11))
@settings(max_examples=200, deadline=None)
def test_tiles_cover_every_pixel_and_overlap(height: int, width: int, tile: int, overlap: int) -> None:
    tile, overlap = 32 * tile, 32 * min(overlap, tile - 1)
    covered = np.zeros((height // 32, width // 32), int)
    spans = {0: set(), 1: set()}
    for rows, columns in tiles(height, width, tile, overlap):
        assert all(value % 32 == 0 for value in (rows.start, rows.stop, columns.start, columns.stop))
        assert rows.stop - rows.start == min(tile, height)
        assert columns.stop - columns.start == min(tile, width)
        assert rows.stop <= height and columns.stop <= width
        covered[rows.start // 32 : rows.stop // 32, columns.start // 32 : columns.stop // 32] += 1
        spans[0].add((rows.start, rows.stop))
        spans[1].add((columns.start, columns.stop))
    assert covered.min() >= 1
    for axis in spans.values():
        ordered = sorted(axis)
        assert all(first[1] - second[0] >= overlap for first, second in pairwise(ordered))


@given(height=st.integers(1, 200), width=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_tiles_give_the_logits_of_a_single_pass(height: int, width: int) -> None:
    photo = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    levels = ["object", "part", "material"]
    whole = dense_logits(PaintedNetwork(), photo, levels, pixel_budget=10**9)
    tiled = dense_logits(PaintedNetwork(), photo, levels, pixel_budget=1, tile=96, overlap=32)
    for level in levels:
        assert whole[level].shape == (whole[level].shape[0], -(-height // 32) * 8, -(-width // 32) * 8)
        torch.testing.assert_close(tiled[level], whole[level], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (31, 33)])
def test_tiny_photos_are_filled_up_with_their_own_colors(size: tuple[int, int]) -> None:
    photo = paint(np.full(size, 3))
    logits = dense_logits(PaintedNetwork(), photo, ["object"])["object"]
    assert (logits.argmax(dim=0) == 3).all()
    assert logits_of_batch(PaintedNetwork(), [photo], ["scene"])[0]["scene"].shape == (3,)


def test_what_goes_through_at_once_is_bounded() -> None:
    network = PaintedNetwork()
    dense_logits(network, paint(four_quarters(1000, 3000)), ["object"], pixel_budget=256 * 256, tile=256, overlap=64)
    assert len(network.sizes) > 1
    assert all(height * width <= 256 * 256 for height, width in network.sizes)


def test_seams_are_smooth_where_tiles_disagree() -> None:
    class Disagreeing(PaintedNetwork):
        def forward(self, images: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
            self.sizes.append((0, 0))
            shape = (1, 2, images.shape[-2] // 4, images.shape[-1] // 4)
            return {level: torch.full(shape, float(len(self.sizes) % 2)) for level in levels}

    photo = np.zeros((192, 512, 3), np.uint8)
    blended = dense_logits(Disagreeing(), photo, ["object"], pixel_budget=1, tile=192, overlap=128)["object"]
    steps = (blended[:, :, 1:] - blended[:, :, :-1]).abs().max()
    assert blended.min() < 0.05 and blended.max() > 0.95
    assert steps < 0.1


@pytest.mark.parametrize(("tile", "overlap"), [(100, 32), (96, 30), (96, 96), (96, 0)])
def test_tiles_that_do_not_fit_the_stride_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        dense_logits(PaintedNetwork(), np.zeros((8, 8, 3), np.uint8), ["object"], tile=tile, overlap=overlap)
