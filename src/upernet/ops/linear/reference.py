"""Linear layers in plain torch, the reference for the other kernels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `upernet.ops.linear`."""
    return F.linear(x, weight, bias)
