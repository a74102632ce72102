"""Tests of upernet.ops.linear.mlp."""

import pytest
import torch
import torch.nn.functional as F

from upernet.ops import mlp
from upernet.ops.linear import mlp as module


@pytest.fixture
def arguments():
    torch.manual_seed(0)
    return [torch.randn(*shape) for shape in ((2, 5, 7, 6), (24, 6), (24,), (9, 24), (9,))]


def plain(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


@pytest.mark.parametrize("values", [1, 24 * 8, 24 * 33, 24 * 70, 2**20])
def test_in_steps_of_any_number_of_rows(arguments, values, monkeypatch):
    monkeypatch.setattr(module, "HIDDEN_VALUES", values)
    with torch.no_grad():
        torch.testing.assert_close(mlp(*arguments), plain(*arguments))
        x = arguments[0].transpose(1, 2)
        torch.testing.assert_close(mlp(x, *arguments[1:]), plain(x, *arguments[1:]))
        assert mlp(torch.empty(0, 6), *arguments[1:]).shape == (0, 9)


def test_gradients_and_autocast_are_torchs_own(arguments, monkeypatch):
    monkeypatch.setattr(module, "HIDDEN_VALUES", 24)
    for argument in arguments:
        argument.requires_grad_()
    for function in (mlp, plain):
        function(*arguments).square().sum().backward()
    assert arguments[0].grad.isfinite().all()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert mlp(*arguments).dtype == torch.bfloat16
