"""Tests of upernet.inference.video.smoothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from upernet.inference.video.smoothing import REACH, Smoother, find_motion, gray_cells, moved

HEIGHT, WIDTH = 24, 32


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a smooth random picture, float32 H x W in 0..255."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 1.5)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def view_of(cells: np.ndarray) -> Image.Image:
    """Return a picture whose cells of 4 x 4 pixels have these gray levels."""
    gray = np.rint(cells).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    return Image.fromarray(np.stack([gray] * 3, axis=-1))


@settings(max_examples=20, deadline=None)
@given(st.integers(-REACH + 1, REACH - 1), st.integers(-REACH + 1, REACH - 1), st.integers(0, 1000))
def test_the_motion_of_a_panning_camera_is_found(rows: int, columns: int, seed: int):
    large = texture(seed, HEIGHT + 2 * REACH, WIDTH + 2 * REACH)
    before = large[REACH : REACH + HEIGHT, REACH : REACH + WIDTH]
    now = large[REACH + rows : REACH + rows + HEIGHT, REACH + columns : REACH + columns + WIDTH]
    motion = find_motion(torch.from_numpy(now.copy()), torch.from_numpy(before.copy()))
    inner = motion[:, 2 * REACH : -2 * REACH, 2 * REACH : -2 * REACH]
    assert inner[0].numpy() == pytest.approx(rows, abs=0.35)
    assert inner[1].numpy() == pytest.approx(columns, abs=0.35)


def test_a_still_picture_has_no_motion():
    cells = torch.from_numpy(texture(0))
    assert find_motion(cells, cells).abs().max() == 0


def test_values_are_moved_as_by_scipy():
    from scipy.ndimage import map_coordinates

    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, HEIGHT, WIDTH)).astype(np.float32)
    motion = generator.uniform(-5, 5, size=(2, HEIGHT, WIDTH)).astype(np.float32)
    places = np.indices((HEIGHT, WIDTH)) + motion
    expected = [map_coordinates(channel, places, order=1, mode="nearest") for channel in values]
    assert np.allclose(moved(torch.from_numpy(values), torch.from_numpy(motion)), expected, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.95), st.integers(1, 5))
def test_a_still_picture_is_averaged_exponentially(weight: float, count: int):
    smoother, view = Smoother(weight), view_of(texture(1))
    logits = torch.randn(count, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(count))
    found = [smoother.dense({"object": each}, view)["object"] for each in logits][-1]
    expected = logits[0]
    for each in logits[1:]:
        expected = weight * expected + (1 - weight) * each
    assert torch.allclose(found, expected, atol=1e-4)


def test_labels_follow_a_panning_camera():
    """A boundary that moves by 2 cells a frame stays where it is in the picture, unlike in an average in place."""
    large = texture(2, HEIGHT, WIDTH + 40)
    smoother, average = Smoother(0.8), None
    wrong = {"moved": 0, "in place": 0}
    for frame in range(10):
        left = 2 * frame
        view = view_of(large[:, left : left + WIDTH])
        truth = (torch.arange(WIDTH) + left >= 30).expand(HEIGHT, -1)
        logits = torch.stack([(~truth).float(), truth.float()])
        found = smoother.dense({"object": logits}, view)["object"]
        average = logits if average is None else 0.8 * average + 0.2 * logits
        wrong["moved"] += int((found.argmax(0) != truth)[:, 4:-4].sum())
        wrong["in place"] += int((average.argmax(0) != truth)[:, 4:-4].sum())
    assert wrong["moved"] < 0.1 * wrong["in place"]


def test_a_cut_forgets_the_past():
    smoother = Smoother(0.9)
    dark, bright = np.zeros((HEIGHT, WIDTH), np.float32), np.full((HEIGHT, WIDTH), 255, np.float32)
    first, second = torch.zeros(2, HEIGHT, WIDTH), torch.ones(2, HEIGHT, WIDTH)
    smoother.image_labels({"scene": torch.tensor([1.0, 0.0])}, view_of(dark))
    smoother.dense({"object": first}, view_of(dark))
    scene = smoother.image_labels({"scene": torch.tensor([0.0, 1.0])}, view_of(bright))["scene"]
    assert torch.allclose(scene, torch.tensor([0.0, 1.0]), atol=1e-6)
    assert torch.allclose(smoother.dense({"object": second}, view_of(bright))["object"], second, atol=1e-6)


def test_another_size_forgets_the_past():
    smoother = Smoother(0.9)
    smoother.dense({"object": torch.zeros(2, HEIGHT, WIDTH)}, view_of(texture(3)))
    ones = torch.ones(2, 8, 8)
    assert torch.equal(smoother.dense({"object": ones}, view_of(texture(3, 8, 8)))["object"], ones)


def test_the_benchmark_measures_what_is_built_in():
    pytest.importorskip("skimage")
    from benchmarks.video import Frames, Way, motions, smoothed

    large = texture(5, HEIGHT, WIDTH + 8)
    views = [view_of(large[:, left : left + WIDTH]) for left in (0, 1, 3, 6)]
    logits = list(torch.randn(4, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)))
    frames = Frames(logits, [gray_cells(view) for view in views], [])
    smoother = Smoother(0.7)
    expected = [smoother.dense({"object": each}, view)["object"] for each, view in zip(logits, views, strict=True)]
    found = smoothed(frames, Way("motion and forget", 0.7, "blocks", True), motions(frames)[0]["blocks"])
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_padding_of_the_network_is_taken_into_account():
    smoother, view = Smoother(0.5), view_of(texture(4, 6, 10))
    smoother.dense({"object": torch.ones(2, 8, 16)}, view)
    found = smoother.dense({"object": torch.ones(2, 8, 16)}, view)["object"]
    assert found.shape == (2, 8, 16) and torch.allclose(found, torch.ones(2, 8, 16))
    assert gray_cells(view).shape == (6, 10)
