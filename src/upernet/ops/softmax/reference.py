"""Softmax over runs of channels in plain torch, the reference for the other kernels."""

from __future__ import annotations

from torch import Tensor


def forward(x: Tensor, groups: int) -> Tensor:
    """Compute `upernet.ops.grouped_softmax`."""
    return x.unflatten(-1, (groups, -1)).softmax(-1).flatten(-2)
