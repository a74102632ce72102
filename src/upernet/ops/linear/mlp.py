"""Multilayer perceptron (linear, GELU, linear): a composition of `linear`, computed in blocks of rows on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.dispatch import override
from upernet.ops.linear import linear

HIDDEN_VALUES = 2**20
"""Values of the hidden layer that are computed at a time: 4 MiB that are overwritten repeatedly stay in the cache."""


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor | None) -> Tensor:
    """Compute `linear(gelu(linear(x, weight1, bias1)), weight2, bias2)`: ... x C -> ... x D.

    On a CPU without autograd, this processes a block of rows at a time. The numbers are the same, and large maps are
    faster, because the hidden layer (four times as wide as `x` in InternImage) is neither allocated nor written to main
    memory. `use_kernel(mlp="torch")` computes all rows at once.

    Args:
        x: ... x C.
        weight1, bias1: H x C and H. If they are bfloat16, the hidden layer is bfloat16 as well.
        weight2, bias2: D x H and D; no bias if it is None.
    """
    may_split = (
        override("mlp") != "torch"
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    rows_per_step = max(1, HIDDEN_VALUES // weight1.shape[0])
    if may_split and rows > rows_per_step:
        steps = [_mlp(part, weight1, bias1, weight2, bias2) for part in x.reshape(rows, -1).split(rows_per_step)]
        return torch.cat(steps).view(*x.shape[:-1], -1)
    return _mlp(x, weight1, bias1, weight2, bias2)


def _mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor | None) -> Tensor:
    if weight1.dtype == torch.bfloat16 and x.dtype == torch.float32:
        return _mlp(x.bfloat16(), weight1, bias1, weight2, bias2).float()
    hidden = linear(x, weight1, bias1)
    hidden = F.gelu(hidden) if torch.is_grad_enabled() else torch.ops.aten.gelu_(hidden)
    return linear(hidden, weight2, bias2)
