"""Lateral connections in plain torch, the reference for the other kernels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from upernet.ops.conv3x3.reference import apply_epilogue
from upernet.ops.runtime.bilinear import resize_like


def forward(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """Compute `upernet.ops.lateral`."""
    return apply_epilogue(F.conv2d(x, weight.to(x.dtype)), scale, shift, relu=True) + resize_like(coarse, x)
