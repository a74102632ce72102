"""Depthwise convolution in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Compute `upernet.ops.depthwise_conv2d`."""
    return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])
