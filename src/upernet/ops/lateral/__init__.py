"""Lateral connections of a feature pyramid: a 1x1 convolution, batch norm and ReLU, plus the coarser map, upsampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.eligibility import is_differentiated, needs_torch, unfit_for_triton, weight_needs_torch
from upernet.ops.lateral import reference
from upernet.ops.registration import define_operator
from upernet.ops.runtime.availability import numba_unavailable, triton_unavailable


def lateral(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """Compute relu(conv2d(x, weight) * scale + shift) plus `coarse` resized to `x`.

    Args:
        x: N x C x H x W, of any memory format.
        weight: D x C x 1 x 1, of the dtype of `x`, or bfloat16 as in `upsample_conv3x3`.
        scale, shift: D.
        coarse: N x D x h x w.

    Returns:
        N x D x H x W; channels-last in memory if the kernel is `numba`.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(x, weight, scale, shift, coarse)
    kernel = decide("lateral", choose_lateral(x, weight, coarse, scale, shift), x, weight, coarse)
    if kernel == "torch":
        return reference.forward(x, weight, scale, shift, coarse)
    if kernel == "triton":
        return torch.ops.upernet.add_resized(F.conv2d(x, weight), scale, shift, coarse)
    if kernel != "numba":
        raise ValueError(f"lateral has no kernel {kernel}: choose from torch, numba, triton")
    return torch.ops.upernet.lateral(x, weight, scale, shift, coarse)


def choose_lateral(x: Tensor, weight: Tensor, coarse: Tensor, *others: Tensor) -> Choice:
    """Choose the kernel of `lateral` for these arguments."""
    if kernel := override("lateral"):
        return Choice(kernel, OVERRIDDEN)
    on_gpu = x.device.type == "cuda"
    if on_gpu:
        reason = triton_unavailable() or unfit_for_triton(x, coarse, weight)
    else:
        reason = needs_torch(x, coarse) or weight_needs_torch(weight, x)
    if reason:
        return Choice("torch", reason)
    if is_differentiated(x, weight, coarse, *others):
        return Choice("torch", "with gradients")
    if on_gpu:
        return Choice("triton", "one pass after the product instead of four")
    if not torch.compiler.is_compiling() and (reason := numba_unavailable("lateral.cpu")):
        return Choice("torch", reason)
    return Choice("numba", "a few rows at a time stay in the cache from the product to the sum")


def _check(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> None:
    """Check all shapes; the kernels do no bounds checks."""
    if x.dim() != 4 or coarse.dim() != 4 or x.shape[0] != coarse.shape[0]:
        raise ValueError(f"lateral: maps {tuple(x.shape)} and {tuple(coarse.shape)} must be N x C x H x W with one N")
    if tuple(weight.shape) != (coarse.shape[1], x.shape[1], 1, 1):
        shapes = f"{tuple(x.shape)}, {tuple(coarse.shape)}"
        raise ValueError(f"lateral: a weight of shape {tuple(weight.shape)} does not fit maps {shapes}")
    if not tuple(scale.shape) == tuple(shift.shape) == (coarse.shape[1],):
        raise ValueError(f"lateral: scale and shift must have {coarse.shape[1]} values")


def _run(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    from upernet.ops.lateral import cpu

    _check(x, weight, scale, shift, coarse)
    if reason := needs_torch(x, coarse) or weight_needs_torch(weight, x):
        raise ValueError(f"lateral: {reason}")
    return cpu.forward(x, weight, scale, shift, coarse)


def _fake(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    images, _, height, width = x.shape
    return x.new_empty(images, height, width, weight.shape[0]).permute(0, 3, 1, 2)


def _flops(x: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(x) * weight[0]


def _run_add_resized(x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    from upernet.ops.lateral import gpu

    if coarse.shape[:2] != x.shape[:2] or not tuple(scale.shape) == tuple(shift.shape) == (x.shape[1],):
        raise ValueError(f"add_resized: maps {tuple(x.shape)} and {tuple(coarse.shape)} must agree in N and C")
    return gpu.add_resized(x, scale, shift, coarse)


def _fake_add_resized(x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(x, memory_format=torch.channels_last if last else torch.contiguous_format)


define_operator(
    "lateral(Tensor x, Tensor weight, Tensor scale, Tensor shift, Tensor coarse) -> Tensor", _run, _fake, flops=_flops
)
define_operator(
    "add_resized(Tensor x, Tensor scale, Tensor shift, Tensor coarse) -> Tensor", _run_add_resized, _fake_add_resized
)
