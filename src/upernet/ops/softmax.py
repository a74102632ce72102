"""Softmax over short runs of channels: the modulation of DCNv3, a softmax over the 9 points of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.choice import OVERRIDES, Choice, decide, fault_of_numba


def choose_grouped_softmax(x: Tensor) -> Choice:
    """The kernel of `grouped_softmax` for this x and its gradient, and why."""
    if "grouped_softmax" in OVERRIDES:
        return Choice(OVERRIDES["grouped_softmax"], "asked for with use_kernel")
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return Choice("torch", f"there is no other kernel for {x.dtype} on {x.device.type}")
    if torch.compiler.is_compiling():
        return Choice("torch", "the compiler fuses it with what is around it")
    if fault := fault_of_numba("softmax_numba"):
        return Choice("torch", fault)
    return Choice("numba", "torch's own uses no vectors where a run is shorter than they are")


def grouped_softmax(x: Tensor, groups: int) -> Tensor:
    """Softmax over each of `groups` runs of the last dimension: ... x (G P) -> the same shape.

    Raises:
        ValueError: the last dimension does not divide into so many runs.
    """
    _check_runs(x, groups)
    kernel = decide("grouped_softmax", choose_grouped_softmax(x), x)
    if kernel == "torch":
        return x.unflatten(-1, (groups, -1)).softmax(-1).flatten(-2)
    if kernel != "numba":
        raise ValueError(f"grouped_softmax has no kernel {kernel}: choose from torch, numba")
    return torch.ops.upernet.grouped_softmax(x, groups)


def _forward(x: Tensor, groups: int) -> Tensor:
    from upernet.ops import softmax_numba

    _check(x, groups)
    return softmax_numba.forward(x, groups)


def _backward(grad: Tensor, out: Tensor, groups: int) -> Tensor:
    from upernet.ops import softmax_numba

    _check(out, groups)
    if grad.shape != out.shape:
        raise ValueError(f"grouped_softmax: a gradient of {tuple(grad.shape)} does not fit {tuple(out.shape)}")
    return softmax_numba.backward(grad.to(out.dtype), out, groups)


def _check(x: Tensor, groups: int) -> None:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(f"grouped_softmax: the Numba kernel takes float32 on a CPU, not {x.dtype} on {x.device}")
    _check_runs(x, groups)


def _check_runs(x: Tensor, groups: int) -> None:
    if groups < 1 or x.dim() < 1 or x.shape[-1] < 1 or x.shape[-1] % groups:
        channels = x.shape[-1] if x.dim() else 0
        raise ValueError(f"grouped_softmax: {channels} channels cannot be divided into {groups} runs")


def _save(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.groups = inputs[1]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.upernet.grouped_softmax_backward(grad, *ctx.saved_tensors, ctx.groups), None


def _save_both(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.groups = inputs[2]


def _differentiate_again(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    """Of r = out (g - sum(g out)), per run: its derivative by g is symmetric, and that by out is spelled out."""
    g, out, v = (each.unflatten(-1, (ctx.groups, -1)) for each in (*ctx.saved_tensors, grad))
    for_g = out * (v - (v * out).sum(-1, keepdim=True))
    for_out = v * (g - (g * out).sum(-1, keepdim=True)) - g * (v * out).sum(-1, keepdim=True)
    return for_g.flatten(-2), for_out.flatten(-2), None


def _like_first(first: Tensor, *rest: Any) -> Tensor:
    return first.new_empty(first.shape)


_library = torch.library.Library("upernet", "FRAGMENT")  # not custom_op: see dcnv3
for _schema, _kernel in (
    ("grouped_softmax(Tensor x, int groups) -> Tensor", _forward),
    ("grouped_softmax_backward(Tensor grad, Tensor out, int groups) -> Tensor", _backward),
):
    _name = _schema.partition("(")[0]
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"upernet::{_name}", _like_first, lib=_library)
torch.library.register_autograd("upernet::grouped_softmax", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd(
    "upernet::grouped_softmax_backward", _differentiate_again, setup_context=_save_both, lib=_library
)
