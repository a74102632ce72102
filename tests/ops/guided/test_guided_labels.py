"""Tests of upernet.ops.guided: kernels agree, boundaries move to edges of the photo, and all else stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from upernet.ops import Axis, choose_guided_labels, guided_labels, use_kernel

STRIDE = 4


def axis(length: int) -> Axis:
    position = ((torch.arange(STRIDE * length) + 0.5) / STRIDE - 0.5).clamp(0, length - 1)
    first = position.floor().long()
    return Axis(first, (first + 1).clamp(max=length - 1), position - first)


def guided(kernel: str, probabilities: Tensor, photo: Tensor, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
    height, width, classes = probabilities.shape
    colors = photo.float().reshape(height, STRIDE, width, STRIDE, 3).mean(dim=(1, 3)).contiguous()
    labels = torch.full(photo.shape[:2], 7, dtype=torch.int16)
    confidence = torch.zeros(photo.shape[:2])
    which = torch.ones(photo.shape[:2], dtype=torch.uint8) if which is None else which
    names = torch.arange(classes, dtype=torch.int16)
    with use_kernel(guided_labels=kernel):
        guided_labels(probabilities, colors, photo, axis(height), axis(width), which, names, labels, confidence)
    return labels, confidence


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_kernels_agree(seed: int, height: int, width: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(height, width, classes, generator=generator).mul(2).softmax(dim=2)
    size = (STRIDE * height, STRIDE * width)
    photo = torch.randint(0, 256, (*size, 3), generator=generator).to(torch.uint8)
    which = torch.randint(0, 3, size, generator=generator).to(torch.uint8)
    labels, confidence = guided("torch", probabilities, photo, which)
    fast_labels, fast_confidence = guided("numba", probabilities, photo, which)
    torch.testing.assert_close(fast_confidence, confidence, atol=1e-5, rtol=1e-4)
    assert (fast_labels == labels).float().mean() > 0.98  # ties may differ
    assert (labels[which == 0] == 7).all() and (labels[which == 2] < 7).all()


@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_a_boundary_moves_to_the_edge_of_the_photo(kernel: str) -> None:
    probabilities = torch.zeros(2, 4, 2)
    probabilities[:, :2, 0], probabilities[:, :2, 1] = 0.9, 0.1
    probabilities[:, 2:, 0], probabilities[:, 2:, 1] = 0.1, 0.9
    photo = torch.full((8, 16, 3), 30, dtype=torch.uint8)
    photo[:, 9:] = 220  # the cells' labels change at column 8
    labels, confidence = guided(kernel, probabilities, photo)
    assert labels[0, 6:10].tolist() == [0, 0, 0, 1]
    assert (labels[:, :4] == 7).all() and (labels[:, 12:] == 7).all()  # one label all around: nothing to do
    changed = confidence[labels < 7]
    assert changed.min() > 0.5 and changed.max() <= 0.9001


def test_the_kernel_is_chosen_by_the_tensors() -> None:
    assert choose_guided_labels(torch.zeros(1, 1, 1)).kernel in ("numba", "torch")
    assert choose_guided_labels(torch.zeros(1, 1, 1, dtype=torch.float64)).kernel == "torch"
