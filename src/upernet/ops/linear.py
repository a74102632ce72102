"""Linear layers: by oneDNN on CPUs, where `F.linear` would go to a slower library."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.choice import OVERRIDES, Choice


def choose_linear(x: Tensor, weight: Tensor) -> Choice:
    """The kernel of `linear` for these arguments, and why.

    - `torch` is `F.linear`.
    - `convolution` is the same product as a 1x1 convolution over channels-last rows, which PyTorch hands to oneDNN.
    """
    if "linear" in OVERRIDES:
        return Choice(OVERRIDES["linear"], "asked for with use_kernel")
    if x.device.type != "cpu":
        return Choice("torch", f"x is on {x.device.type}")
    if x.dtype not in (torch.float32, torch.bfloat16) or x.dtype != weight.dtype:
        return Choice("torch", f"oneDNN does not multiply {x.dtype} by {weight.dtype}")
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return Choice("torch", "oneDNN is not built into PyTorch, or switched off")
    if x.numel() == 0:
        return Choice("torch", "x is empty")
    return Choice("convolution", "oneDNN's products are faster than F.linear's")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: ... x C -> ... x D.

    Args:
        weight, bias: D x C, D.
    """
    kernel = choose_linear(x, weight).kernel
    if kernel == "torch":
        return F.linear(x, weight, bias)
    if kernel != "convolution":
        raise ValueError(f"linear has no kernel {kernel}: choose from torch, convolution")
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])
