"""Linear, GELU, linear."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.choice import OVERRIDES
from upernet.ops.linear import linear

HIDDEN_VALUES = 2**20
"""Values of the hidden layer that are computed at a time: 4 MiB, written again and again, stay in the cache."""


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """`linear(gelu(linear(x, weight1, bias1)), weight2, bias2)`: ... x C -> ... x D.

    Without autograd on a CPU, some rows at a time: the same numbers, and faster for large maps, because the hidden
    layer (four times as wide as x in InternImage) neither goes to memory nor is allocated. `use_kernel(mlp="torch")`
    computes all rows at once.

    Args:
        weight1, bias1: H x C, H. If they are bfloat16, so is the hidden layer.
        weight2, bias2: D x H, D.
    """
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    some = max(1, HIDDEN_VALUES // weight1.shape[0])
    in_steps = (
        rows > some
        and OVERRIDES.get("mlp") != "torch"
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )
    if not in_steps:
        if weight1.dtype == torch.bfloat16 and x.dtype == torch.float32:  # so is the hidden layer then
            return mlp(x.bfloat16(), weight1, bias1, weight2, bias2).float()
        hidden = linear(x, weight1, bias1)
        hidden = F.gelu(hidden) if torch.is_grad_enabled() else torch.ops.aten.gelu_(hidden)
        return linear(hidden, weight2, bias2)
    steps = [mlp(part, weight1, bias1, weight2, bias2) for part in x.reshape(rows, -1).split(some)]
    return torch.cat(steps).view(*x.shape[:-1], -1)
