"""Linear layers: on CPUs, oneDNN or Numba compute what `F.linear` would send to a slower library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.eligibility import has_onednn, is_differentiated
from upernet.ops.linear import reference
from upernet.ops.linear.pointwise import pointwise_conv2d
from upernet.ops.registration import define_operator
from upernet.ops.runtime.availability import numba_unavailable


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weight^T + bias, in the dtype of `x`.

    Args:
        x: ... x C.
        weight: D x C. If it is bfloat16, the product is computed in bfloat16.
        bias: D.

    Returns:
        ... x D.
    """
    return _compute(decide("linear", choose_linear(x, weight, bias), x, weight), x, weight, bias)


def _compute(kernel: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if kernel == "torch":
        return reference.forward(x, weight, bias)
    if kernel == "bfloat16":
        bias = None if bias is None else bias.to(weight.dtype)
        return reference.forward(x.to(weight.dtype), weight, bias).to(x.dtype)
    if kernel == "numba":
        return torch.ops.upernet.linear(x, weight, bias)
    if kernel != "convolution":
        raise ValueError(f"linear has no kernel {kernel}: choose from torch, convolution, numba, bfloat16")
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    out = pointwise_conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def choose_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Choice:
    """Choose the kernel of `linear` for these arguments.

    - `torch` is `F.linear`.
    - `convolution` is the same product as a 1x1 convolution over channels-last rows, which PyTorch sends to oneDNN.
    - `numba` serves training.
    - `bfloat16` rounds `x` to bfloat16, because the weight is bfloat16.
    """
    if kernel := override("linear"):
        return Choice(kernel, OVERRIDDEN)
    if x.device.type != "cpu":
        return Choice("torch", f"x is on {x.device.type}")
    if weight.dtype == torch.bfloat16:
        return Choice("bfloat16", "the weight is bfloat16")
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return Choice("torch", f"oneDNN does not multiply {x.dtype} by {weight.dtype}")
    if x.numel() == 0:
        return Choice("torch", "x is empty")
    decided_by_torch = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    if is_differentiated(x, weight, bias) and not decided_by_torch:
        if reason := numba_unavailable("linear.cpu"):
            return Choice("convolution", reason)
        return Choice("numba", "with gradients")
    if torch.compiler.is_compiling() or has_onednn():
        return Choice("convolution", "oneDNN's products are faster than F.linear's")
    return Choice("torch", "oneDNN is switched off or not built into PyTorch")


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a 1x1 convolution as `linear` does: N x C x H x W -> N x D x H x W.

    Args:
        x: N x C x H x W.
        weight: D x C x 1 x 1.
        bias: D.
    """
    rows, matrix = x.permute(0, 2, 3, 1), weight.flatten(1)
    kernel = decide("linear", choose_linear(rows, matrix, bias), rows, matrix)
    if kernel in ("torch", "convolution"):
        return pointwise_conv2d(x, weight, bias)
    return _compute(kernel, rows, matrix, bias).permute(0, 3, 1, 2)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from upernet.ops.linear import cpu

    if weight.dim() != 2 or x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise ValueError(f"linear: a weight of shape {tuple(weight.shape)} does not fit x of {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64) or x.dtype != weight.dtype:
        raise ValueError(f"linear: the Numba kernel takes float32 or float64, not {x.dtype} and {weight.dtype}")
    return cpu.forward(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


def _save(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    (x, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
    product, rows = torch.ops.upernet.linear, grad.reshape(-1, grad.shape[-1])
    for_x = product(grad, weight.t(), None) if wanted[0] else None
    for_weight = product(rows.t(), x.reshape(-1, x.shape[-1]).t(), None) if wanted[1] else None
    return for_x, for_weight, rows.sum(0) if wanted[2] else None


define_operator(
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    _run,
    _fake,
    save=_save,
    backward=_backward,
    flops=_flops,
)
