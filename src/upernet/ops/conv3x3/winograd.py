"""Winograd's convolution of a single map in training, as custom operators with gradients of any order.

`upernet::winograd_conv3x3` convolves channels-last rows, and adds upsampled tap maps; with `adjoint`, it carries
gradients back. `upernet::winograd_conv3x3_weight_gradient` is its gradient by the weight. Both are linear in each
argument, so each one's gradients are calls of the two, and of `upernet::upsample_taps_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.conv3x3.taps import upsample_taps, upsample_taps_gradients
from upernet.ops.eligibility import unfit_for_numba, weight_needs_torch
from upernet.ops.registration import define_operator

MIN_TRAINED = 128
"""Channels of input and output, and tiles of all images, from which Winograd's transforms pay off in training. With
fewer, transforming the weight three times takes as long as they save."""
MIN_TRAINED_CHANNELS, MANY_TRAINED = 64, 400
"""Channels from which they pay off with at least so many tiles, over which the transforms of the weight are spread."""


def count_tiles(x: Tensor) -> int:
    """Return the number of 4 x 4 tiles of a map N x C x H x W."""
    return -(-x.shape[2] // 4) * -(-x.shape[3] // 4)


def pays_off_in_training(x: Tensor, weight: Tensor) -> bool:
    """Return whether the transforms save time in training, as measured; this holds for float32 only."""
    channels, tiles = min(x.shape[1], weight.shape[0]), x.shape[0] * count_tiles(x)
    enough = channels >= MIN_TRAINED_CHANNELS if tiles >= MANY_TRAINED else min(channels, tiles) >= MIN_TRAINED
    return enough and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def winograd_conv2d(x: Tensor, weight: Tensor, taps: Sequence[Tensor] = ()) -> Tensor:
    """Convolve N x C x H x W with D x C x 3 x 3 and a padding of 1, with gradients.

    The tap maps of coarser maps, N x h_k x w_k x (9 D) each, are upsampled and added.
    """
    return torch.ops.upernet.winograd_conv3x3(x.permute(0, 2, 3, 1), weight, False, list(taps)).permute(0, 3, 1, 2)


def _run(rows: Tensor, weight: Tensor, adjoint: bool, taps: Sequence[Tensor]) -> Tensor:
    from upernet.ops.conv3x3 import winograd_training_cpu

    if rows.dim() != 4 or weight.dim() != 4:
        raise ValueError(f"winograd_conv3x3: {tuple(rows.shape)} and {tuple(weight.shape)} must have 4 dimensions")
    x, applied = rows.transpose(1, -1), weight.transpose(0, 1) if adjoint else weight
    if tuple(applied.shape[1:]) != (x.shape[1], 3, 3):
        raise ValueError(f"winograd_conv3x3: a weight of shape {tuple(weight.shape)} does not fit {tuple(rows.shape)}")
    if reason := unfit_for_numba(x, applied) or weight_needs_torch(applied, x):
        raise ValueError(f"winograd_conv3x3: {reason}")
    coarse = upsample_taps(taps, *rows.shape[1:3]) if taps else None
    return winograd_training_cpu.convolution(rows.detach().contiguous(), weight.detach(), adjoint, coarse)


def _run_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    from upernet.ops.conv3x3 import winograd_training_cpu

    if grad.dim() != 4 or x.dim() != 4 or grad.shape[:3] != x.shape[:3]:
        raise ValueError(
            f"winograd_conv3x3_weight_gradient: {tuple(grad.shape)} and {tuple(x.shape)} must agree in N, H and W"
        )
    if reason := unfit_for_numba(x.transpose(1, -1), grad.transpose(1, -1)):
        raise ValueError(f"winograd_conv3x3_weight_gradient: {reason}")
    return winograd_training_cpu.weight_gradient(grad.detach().contiguous(), x.detach().contiguous())


def _fake(rows: Tensor, weight: Tensor, adjoint: bool, taps: Sequence[Tensor]) -> Tensor:
    return rows.new_empty(*rows.shape[:3], weight.shape[1 if adjoint else 0])


def _fake_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(grad.shape[3], x.shape[3], 3, 3)


def _save(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.adjoint = inputs[2]
    ctx.sizes = [x.shape[1:3] for x in inputs[3]]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, list[Tensor]]:
    (x, weight), weight_gradient = ctx.saved_tensors, torch.ops.upernet.winograd_conv3x3_weight_gradient
    for_x = for_weight = None
    if ctx.needs_input_grad[0]:
        for_x = torch.ops.upernet.winograd_conv3x3(grad, weight, not ctx.adjoint, [])
    if ctx.needs_input_grad[1]:
        for_weight = weight_gradient(x, grad) if ctx.adjoint else weight_gradient(grad, x)
    return for_x, for_weight, None, upsample_taps_gradients(grad, ctx.sizes)


def _save_both(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_weight_gradient(ctx: Any, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    (grad, x), convolve = ctx.saved_tensors, torch.ops.upernet.winograd_conv3x3
    for_grad = convolve(x, weight, False, []) if ctx.needs_input_grad[0] else None
    return for_grad, convolve(grad, weight, True, []) if ctx.needs_input_grad[1] else None


def _flops(rows: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Count a direct convolution, as everywhere."""
    return 2 * math.prod(rows[:3]) * math.prod(weight)


def _weight_gradient_flops(grad: Sequence[int], x: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Count a direct convolution, as everywhere."""
    return 2 * math.prod(grad) * 9 * x[3]


define_operator(
    "winograd_conv3x3(Tensor rows, Tensor weight, bool adjoint, Tensor[] taps) -> Tensor",
    _run,
    _fake,
    save=_save,
    backward=_backward,
    flops=_flops,
)
define_operator(
    "winograd_conv3x3_weight_gradient(Tensor grad, Tensor x) -> Tensor",
    _run_weight_gradient,
    _fake_weight_gradient,
    save=_save_both,
    backward=_backward_of_weight_gradient,
    flops=_weight_gradient_flops,
)
