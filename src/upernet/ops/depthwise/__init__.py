"""Depthwise convolution with a fast gradient of its weight and bias.

oneDNN, which torch uses on CPUs, computes the result and the gradient of the input well. The gradient of the weight
takes it several times as long as either if filters have 5 x 5 pixels, and with a bias twice as long again. With 3 x 3
pixels, it is fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.depthwise import reference
from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.eligibility import is_differentiated, needs_torch
from upernet.ops.registration import define_operator, refuse_second_derivative
from upernet.ops.runtime.availability import numba_unavailable

SIZE = 5
"""Height and width of the filters that have a kernel."""


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """Convolve each channel with its own filter, as `F.conv2d` with as many groups as channels.

    Args:
        x: N x C x H x W.
        weight: C x 1 x K x K.
        bias: C.
        stride, padding: In both directions.

    Returns:
        N x C x h x w. With the kernel `numba`, its gradient cannot be differentiated again.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(x, weight, bias)
    kernel = decide("depthwise_conv2d", choose_depthwise_conv2d(x, weight, bias), x, weight)
    if kernel == "torch":
        return reference.forward(x, weight, bias, stride, padding)
    if kernel != "numba":
        raise ValueError(f"depthwise_conv2d has no kernel {kernel}: choose from torch, numba")
    return torch.ops.upernet.depthwise_conv2d(x, weight, bias, stride, padding)


def choose_depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Choice:
    """Choose the kernel of `depthwise_conv2d` for these arguments."""
    if kernel := override("depthwise_conv2d"):
        return Choice(kernel, OVERRIDDEN)
    if not is_differentiated(weight, bias):
        return Choice("torch", "the weight needs no gradient")
    if reason := _unfit(x, weight):
        return Choice("torch", reason)
    if torch.compiler.is_compiling():
        return Choice("torch", "the compiler knows torch's convolution")
    if reason := numba_unavailable("depthwise.cpu"):
        return Choice("torch", reason)
    return Choice("numba", "the weight needs a gradient")


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    channels = x.shape[1] if x.dim() == 4 else 0
    if weight.dim() != 4 or tuple(weight.shape[:2]) != (channels, 1) or weight.shape[2] != weight.shape[3]:
        raise ValueError(
            f"depthwise_conv2d: maps must be N x C x H x W and weights C x 1 x K x K, not {tuple(x.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"depthwise_conv2d: a bias of shape {tuple(bias.shape)} does not fit {channels} channels")


def _unfit(x: Tensor, weight: Tensor) -> str:
    """Return why the kernel cannot take these tensors, or an empty string."""
    if reason := needs_torch(x):
        return reason
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return "maps or weights are not torch.float32"
    return "" if weight.shape[-1] == SIZE else f"torch is faster for filters of {weight.shape[-1]} pixels"


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    return reference.forward(x, weight, bias, stride, padding)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    return reference.forward(x, weight, bias, stride, padding)


def _save(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    x, weight, bias, ctx.stride, ctx.padding = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    for_x = for_weight = for_bias = None
    with torch.autocast(x.device.type, enabled=False):
        if wanted[0]:
            for_x = torch.ops.upernet.depthwise_input_gradient(grad, x, weight, ctx.stride, ctx.padding)
        if wanted[1] or wanted[2]:
            for_weight, for_bias = torch.ops.upernet.depthwise_weight_gradient(grad, x, ctx.stride, ctx.padding)
    return for_x, for_weight, for_bias if ctx.has_bias else None, None, None


def _run_input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    pair, groups = [stride] * 2, x.shape[1]
    if stride == 1 and padding < weight.shape[-1]:
        # A convolution with the rotated filters; oneDNN takes half as long for it as for what it is the gradient of.
        return reference.forward(grad, weight.flip(2, 3), None, 1, weight.shape[-1] - 1 - padding)
    arguments = (grad, x, weight, None, pair, [padding] * 2, [1, 1], False, [0, 0], groups, [True, False, False])
    return torch.ops.aten.convolution_backward(*arguments)[0]


def _run_weight_gradient(grad: Tensor, x: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    from upernet.ops.depthwise import cpu

    if x.dim() != 4:
        raise ValueError(f"depthwise_conv2d: maps must be N x C x H x W, not {tuple(x.shape)}")
    if stride < 1 or padding < 0:
        raise ValueError(f"depthwise_conv2d: there is no stride {stride} with padding {padding}")
    expected = [(side + 2 * padding - SIZE) // stride + 1 for side in x.shape[2:]]
    if list(grad.shape) != [*x.shape[:2], *expected]:
        raise ValueError(f"depthwise_conv2d: a gradient of {tuple(grad.shape)} does not fit maps {tuple(x.shape)}")
    if reason := _unfit(x, x.new_empty(1, 1, SIZE, SIZE)):
        raise ValueError(f"depthwise_conv2d: {reason}")
    return cpu.weight_gradient(grad.to(x.dtype), x, stride, padding)


def _fake_weight_gradient(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[1], 1, SIZE, SIZE), x.new_empty(x.shape[1])


define_operator(
    "depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias, int stride, int padding) -> Tensor",
    _run,
    _fake,
    save=_save,
    backward=_backward,
)
define_operator(
    "depthwise_input_gradient(Tensor grad, Tensor x, Tensor weight, int stride, int padding) -> Tensor",
    _run_input_gradient,
    lambda grad, x, *rest: torch.empty_like(x),
    backward=refuse_second_derivative,
)
define_operator(
    "depthwise_weight_gradient(Tensor grad, Tensor x, int stride, int padding) -> (Tensor, Tensor)",
    _run_weight_gradient,
    _fake_weight_gradient,
    backward=refuse_second_derivative,
)
