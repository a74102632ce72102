"""Tests of upernet.inference.opencv_resize: the same bytes as OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.shared import REFERENCE, needs_reference
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.inference.opencv_resize import resize_as_opencv

PHOTO = [[106, 152, 249, 131], [184, 200, 0, 21], [253, 147, 202, 107]]
OPENCV: dict[tuple[int, int], list[list[int]]] = {
    (5, 7): [
        [106, 122, 149, 200, 240, 173, 131],
        [137, 149, 169, 160, 145, 109, 87],
        [184, 190, 199, 100, 1, 14, 21],
        [225, 205, 172, 144, 118, 90, 72],
        [253, 215, 154, 174, 195, 141, 107],
    ],
    (2, 3): [[132, 175, 117], [223, 156, 96]],
    (1, 9): [[184, 187, 194, 189, 100, 11, 8, 18, 21]],
}
"""What `cv2.resize` of OpenCV 4.11 makes of `PHOTO`."""


@pytest.mark.parametrize("size", OPENCV)
def test_the_result_is_that_of_opencv(size: tuple[int, int]) -> None:
    photo = np.array(PHOTO, np.uint8)[..., None]
    assert resize_as_opencv(photo, size)[..., 0].tolist() == OPENCV[size]


@needs_reference
@pytest.mark.golden
def test_the_published_inputs_are_met_exactly() -> None:
    with np.load(REFERENCE / "golden" / "upp_e2e_coffee.npz") as file:
        facts = {key: file[key] for key in file.files}
    for index, (height, width) in enumerate(facts["input_sizes"].tolist()):
        resized = resize_as_opencv(facts["image"], (height, width))
        values = resized[..., ::-1].transpose(2, 0, 1).astype(np.float32).ravel()
        step = values.size // 4096
        means = np.repeat(np.array([102.9801, 115.9465, 122.7717], np.float32), height * width)[::step][:4096]
        np.testing.assert_array_equal(values[::step][:4096] - means, facts[f"input{index}_sub"])


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 4), st.integers(0, 100))
def test_the_result_is_bilinear(sides: tuple[int, ...], seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (*sides[:2], 3), dtype=np.uint8)
    values = torch.from_numpy(photo).permute(2, 0, 1)[None].double()
    expected = F.interpolate(values, size=sides[2:], mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    resized = resize_as_opencv(photo, (sides[2], sides[3]))
    assert resized.dtype == np.uint8
    assert np.abs(resized - expected.numpy()).max() < 1.1
