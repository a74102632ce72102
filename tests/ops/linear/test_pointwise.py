"""Tests of upernet.ops.linear.pointwise: 1x1 convolutions through oneDNN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.threads import on_threads
from upernet.ops import linear, pointwise_conv2d, use_kernel
from upernet.ops.linear.pointwise import SMALL

ONEDNN = "mkldnn_convolution"
has_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


class Operators(TorchDispatchMode):
    """Notes the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, threads: int) -> tuple[Tensor, list[str]]:
    """Return the convolution and the operators that computed it."""

    def run() -> tuple[Tensor, list[str]]:
        with Operators() as operators:
            return pointwise_conv2d(x, weight, bias), operators.names

    return on_threads(threads, run)


@has_onednn
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs", "has_bias"), [(32, 48, True), (24, 9, False), (7, 150, True)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_a_convolution(
    layout: torch.memory_format, inputs: int, outputs: int, has_bias: bool, threads: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, inputs, 70, 65).contiguous(memory_format=layout)
    weight, bias = torch.randn(outputs, inputs, 1, 1), torch.randn(outputs) if has_bias else None
    y, operators = convolve(x, weight, bias, threads)
    expected = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    assert (ONEDNN in operators) == (threads == 1)
    assert y.is_contiguous(memory_format=layout)


@has_onednn
def test_torch_decides_what_onednn_should_not_compute() -> None:
    x, weight = torch.randn(1, 16, 40, 40), torch.randn(8, 16, 1, 1)
    assert x.numel() > SMALL
    assert ONEDNN in convolve(x, weight, None, 1)[1]
    small = x[:, :, :20, :20]
    others = [(small, weight), (x.double(), weight.double()), (x, weight.clone().requires_grad_())]
    for maps, matrix in others:
        y, operators = convolve(maps, matrix, None, 1)
        assert ONEDNN not in operators
        torch.testing.assert_close(y, F.conv2d(maps, matrix))
    with use_kernel(linear="torch"):
        assert ONEDNN not in convolve(x, weight, None, 1)[1]
    with torch.autocast("cpu", torch.bfloat16):
        y, operators = convolve(x, weight, None, 1)
        assert ONEDNN not in operators and y.dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        assert ONEDNN not in convolve(x, weight, None, 1)[1]


@has_onednn
def test_linear_layers_use_it() -> None:
    x, weight, bias = torch.randn(2, 900, 24), torch.randn(40, 24), torch.randn(40)

    def run() -> tuple[Tensor, list[str]]:
        with Operators() as operators:
            return linear(x, weight, bias), operators.names

    y, operators = on_threads(1, run)
    assert ONEDNN in operators
    torch.testing.assert_close(y, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
