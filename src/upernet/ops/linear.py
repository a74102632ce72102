"""Linear layers: by oneDNN or in Numba on CPUs, where `F.linear` would go to a slower library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from upernet.ops.choice import OVERRIDES, Choice, decide, fault_of_numba

LANES = 16


def choose_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Choice:
    """The kernel of `linear` for these arguments, and why.

    - `torch` is `F.linear`.
    - `convolution` is the same product as a 1x1 convolution over channels-last rows, which PyTorch hands to oneDNN.
    - `numba` is for the numbers of outputs that oneDNN is slow with. It has no gradient.
    - `bfloat16` rounds x to it, because the weight is.
    """
    if "linear" in OVERRIDES:
        return Choice(OVERRIDES["linear"], "asked for with use_kernel")
    if x.device.type != "cpu":
        return Choice("torch", f"x is on {x.device.type}")
    if weight.dtype == torch.bfloat16:
        return Choice("bfloat16", "the weight is bfloat16")
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return Choice("torch", f"oneDNN does not multiply {x.dtype} by {weight.dtype}")
    if x.numel() == 0:
        return Choice("torch", "x is empty")
    if weight.shape[0] % LANES == 0:
        if torch.compiler.is_compiling() or (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
            return Choice("convolution", "oneDNN's products are faster than F.linear's")
        return Choice("torch", "oneDNN is not built into PyTorch, or switched off")
    slow = f"oneDNN is slow where outputs are not a multiple of {LANES}"
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if differentiated or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return Choice("torch", slow)
    if fault := fault_of_numba("products_numba"):
        return Choice("torch", fault)
    return Choice("numba", slow)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: ... x C -> ... x D, in the type of x.

    Args:
        weight, bias: D x C, D. If the weight is bfloat16, the product is one of bfloat16.
    """
    kernel = decide("linear", choose_linear(x, weight, bias), x, weight)
    if kernel == "torch":
        return F.linear(x, weight, bias)
    if kernel == "bfloat16":
        bias = None if bias is None else bias.to(weight.dtype)
        return F.linear(x.to(weight.dtype), weight, bias).to(x.dtype)
    if kernel == "numba":
        return torch.ops.upernet.linear(x, weight, bias)
    if kernel != "convolution":
        raise ValueError(f"linear has no kernel {kernel}: choose from torch, convolution, numba, bfloat16")
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.conv2d` with a kernel of one pixel: N x C x H x W -> N x D x H x W.

    Args:
        weight, bias: D x C x 1 x 1, D.
    """
    rows, matrix = x.permute(0, 2, 3, 1), weight.flatten(1)
    if choose_linear(rows, matrix, bias).kernel not in ("numba", "bfloat16"):
        return F.conv2d(x, weight, bias)
    return linear(rows, matrix, bias).permute(0, 3, 1, 2)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from upernet.ops.products_numba import Products

    if weight.dim() != 2 or x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise ValueError(f"linear: a weight of shape {tuple(weight.shape)} does not fit x of {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64) or x.dtype != weight.dtype:
        raise ValueError(f"linear: the Numba kernel takes float32 or float64, not {x.dtype} and {weight.dtype}")
    rows = x.detach().reshape(-1, 1, x.shape[-1]).contiguous()
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    Products(weight[None], None if bias is None else bias[None])(rows, out.view(len(rows), 1, -1))
    return out


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


_library = torch.library.Library("upernet", "FRAGMENT")  # not custom_op: see dcnv3
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_library.impl("linear", _run, "CompositeExplicitAutograd")
torch.library.register_fake("upernet::linear", _fake, lib=_library)


@register_flop_formula(torch.ops.upernet.linear)
def _flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]
