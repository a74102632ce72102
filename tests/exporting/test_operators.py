"""Tests of upernet.exporting.operators: what replaces operators in exported graphs, beside torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import deform_conv2d

from upernet.exporting.operators import average_pool, deform_conv, exportable
from upernet.ops import dcnv3
from upernet.ops.conv3x3.matrices import shifted_resize
from upernet.ops.dcnv3.geometry import Geometry


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 6, (2, 5), (None, 3)]))
def test_pooling_is_that_of_torch(height: int, width: int, size: int | tuple[int | None, int]) -> None:
    maps = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(average_pool(maps, size), F.adaptive_avg_pool2d(maps, size))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60))
def test_the_matrix_resizes_and_shifts(coarse: int, fine: int) -> None:
    row = torch.randn(1, 1, coarse, 1, dtype=torch.float64)
    resized = F.pad(F.interpolate(row, size=(fine, 1), mode="bilinear")[0, 0, :, 0], (1, 1))
    matrix = shifted_resize(coarse, fine, row).unflatten(1, (3, coarse))
    for shift in range(3):
        torch.testing.assert_close(matrix[:, shift] @ row.flatten(), resized[shift : shift + fine])


def test_inside_the_block_networks_see_the_replacements() -> None:
    maps = torch.randn(1, 4, 7, 9)
    with exportable():
        found = F.adaptive_avg_pool2d(maps, 3)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(maps, 3))


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 2),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    groups=st.integers(1, 3),
    stride=st.integers(1, 2),
    offset_scale=st.sampled_from([1.0, 2.0]),
)
def test_grid_sample_is_dcnv3(n: int, height: int, width: int, groups: int, stride: int, offset_scale: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(n, height, width, 4 * groups, dtype=torch.float64)
    rows, columns = -(-height // stride), -(-width // stride)
    offset = 2 * torch.randn(n, rows, columns, groups * 9 * 2, dtype=torch.float64)
    mask = torch.rand(n, rows, columns, groups * 9, dtype=torch.float64)
    options = {"stride": (stride, stride), "groups": groups, "offset_scale": offset_scale}
    with exportable():
        found = dcnv3(x, offset, mask, **options)
    torch.testing.assert_close(found, dcnv3(x, offset, mask, **options))


@pytest.mark.parametrize("offset_scale", [1.0, 2.0])
def test_deform_conv_samples_where_dcnv3_does(monkeypatch: pytest.MonkeyPatch, offset_scale: float) -> None:
    """The arguments of the ONNX operator go to torchvision's, which has the same definition."""

    def compute(name: str, inputs: tuple[Tensor, ...], attributes: dict, **kwargs: object) -> Tensor:
        x, weight, offset, bias, mask = inputs
        assert name == "DeformConv" and bias is None
        found = deform_conv2d(x, offset, weight, padding=attributes["pads"][:2], mask=mask)
        assert found.shape == kwargs["shape"] and attributes["group"] == x.shape[1]
        assert offset.shape[1] == 18 * attributes["offset_group"]
        return found

    monkeypatch.setattr(torch.onnx.ops, "symbolic", compute)
    torch.manual_seed(0)
    x, offset = torch.randn(2, 6, 7, 12), 2 * torch.randn(2, 6, 7, 3 * 9 * 2)
    mask = torch.rand(2, 6, 7, 3 * 9)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 3, offset_scale, False)
    found = deform_conv(x, offset, mask, geometry)
    torch.testing.assert_close(found, dcnv3(x, offset, mask, groups=3, offset_scale=offset_scale), atol=1e-5, rtol=1e-4)
