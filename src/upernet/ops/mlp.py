"""Linear, GELU, linear."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.choice import OVERRIDES

HIDDEN_VALUES = 2**20
"""Values of the hidden layer that are computed at a time: 4 MiB, written again and again, stay in the cache."""


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """`linear(gelu(linear(x, weight1, bias1)), weight2, bias2)`: ... x C -> ... x D.

    Without autograd on a CPU, some rows at a time: the same numbers, and faster for large maps, because the hidden
    layer (four times as wide as x in InternImage) neither goes to memory nor is allocated. `use_kernel(mlp="torch")`
    computes all rows at once.

    Args:
        weight1, bias1: H x C, H.
        weight2, bias2: D x H, D.
    """
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    some = max(1, HIDDEN_VALUES // weight1.shape[0])
    in_steps = (
        rows > some
        and OVERRIDES.get("mlp") != "torch"
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
    if not in_steps:
        return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)
    flat = x.reshape(rows, -1)
    out = flat.new_empty(rows, weight2.shape[0])
    buffer = flat.new_empty(some, weight1.shape[0])
    for start in range(0, rows, some):
        part = flat[start : start + some]
        hidden = buffer[: len(part)]
        torch.addmm(bias1, part, weight1.t(), out=hidden)
        torch.ops.aten.gelu.out(hidden, out=hidden)
        torch.addmm(bias2, hidden, weight2.t(), out=out[start : start + some])
    return out.view(*x.shape[:-1], -1)
