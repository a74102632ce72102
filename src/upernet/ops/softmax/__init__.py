"""Softmax over short runs of channels, such as the modulation of DCNv3: a softmax over the 9 points of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.registration import define_operator
from upernet.ops.runtime.availability import numba_unavailable
from upernet.ops.softmax import reference


def grouped_softmax(x: Tensor, groups: int) -> Tensor:
    """Compute the softmax over each of `groups` runs of the last dimension: ... x (G P) -> the same shape.

    Raises:
        ValueError: the last dimension cannot be divided into that many runs.
    """
    _check_runs(x, groups)
    kernel = decide("grouped_softmax", choose_grouped_softmax(x), x)
    if kernel == "torch":
        return reference.forward(x, groups)
    if kernel != "numba":
        raise ValueError(f"grouped_softmax has no kernel {kernel}: choose from torch, numba")
    return torch.ops.upernet.grouped_softmax(x, groups)


def choose_grouped_softmax(x: Tensor) -> Choice:
    """Choose the kernel of `grouped_softmax` for this `x`, and of its gradient."""
    if kernel := override("grouped_softmax"):
        return Choice(kernel, OVERRIDDEN)
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return Choice("torch", f"there is no other kernel for {x.dtype} on {x.device.type}")
    if torch.compiler.is_compiling():
        return Choice("torch", "the compiler fuses it with its neighbors")
    if reason := numba_unavailable("softmax.cpu"):
        return Choice("torch", reason)
    return Choice("numba", "torch does not vectorize runs that are shorter than a vector register")


def _run(x: Tensor, groups: int) -> Tensor:
    from upernet.ops.softmax import cpu

    _check(x, groups)
    return cpu.forward(x, groups)


def _run_backward(grad: Tensor, out: Tensor, groups: int) -> Tensor:
    from upernet.ops.softmax import cpu

    _check(out, groups)
    if grad.shape != out.shape:
        raise ValueError(f"grouped_softmax: a gradient of {tuple(grad.shape)} does not fit {tuple(out.shape)}")
    return cpu.backward(grad.to(out.dtype), out, groups)


def _check(x: Tensor, groups: int) -> None:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(f"grouped_softmax: the Numba kernel takes float32 on a CPU, not {x.dtype} on {x.device}")
    _check_runs(x, groups)


def _check_runs(x: Tensor, groups: int) -> None:
    if groups < 1 or x.dim() < 1 or x.shape[-1] < 1 or x.shape[-1] % groups:
        channels = x.shape[-1] if x.dim() else 0
        raise ValueError(f"grouped_softmax: {channels} channels cannot be divided into {groups} runs")


def _fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.groups = inputs[1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.upernet.grouped_softmax_backward(grad, *ctx.saved_tensors, ctx.groups), None


def _save_for_double_backward(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.groups = inputs[2]


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    """Differentiate r = out (g - sum(g out)) per run by g and by out; the derivative by g is symmetric."""
    g, out, v = (each.unflatten(-1, (ctx.groups, -1)) for each in (*ctx.saved_tensors, grad))
    for_g = out * (v - (v * out).sum(-1, keepdim=True))
    for_out = v * (g - (g * out).sum(-1, keepdim=True)) - g * (v * out).sum(-1, keepdim=True)
    return for_g.flatten(-2), for_out.flatten(-2), None


define_operator("grouped_softmax(Tensor x, int groups) -> Tensor", _run, _fake, save=_save, backward=_backward)
define_operator(
    "grouped_softmax_backward(Tensor grad, Tensor out, int groups) -> Tensor",
    _run_backward,
    _fake,
    save=_save_for_double_backward,
    backward=_double_backward,
)
