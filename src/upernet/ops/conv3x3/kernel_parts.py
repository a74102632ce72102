"""The parts of a 3x3 kernel that belong to the maps of `upsample_conv3x3`, with gradients of any order.

`upernet::split_kernel` copies each part to a tensor of its own, those of coarse maps in the order of their products.
`upernet::join_kernel` is its inverse. Both only move numbers, so each one is the gradient of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.conv3x3.taps import kernel_language
from upernet.ops.registration import define_operator


def split_kernel(weight: Tensor, channels: Sequence[int], coarse: Sequence[int]) -> list[Tensor]:
    """Split a weight D x (C_1 + C_2 + ...) x 3 x 3 into one part per map.

    Args:
        weight: The weight, of any memory format.
        channels: C_1, C_2, ...
        coarse: The maps whose part is what `tap_map` takes, 9 D x C_k with the taps in row-major order. Those of the
            others are D x C_k x 3 x 3.
    """
    as_taps = [k in coarse for k in range(len(channels))]
    return torch.ops.upernet.split_kernel(weight, list(channels), as_taps)


def _run(weight: Tensor, channels: Sequence[int], as_taps: Sequence[bool]) -> list[Tensor]:
    if weight.dim() != 4 or weight.shape[2:] != (3, 3) or weight.shape[1] != sum(channels):
        raise ValueError(f"split_kernel: a weight of shape {tuple(weight.shape)} has no parts of {channels} channels")
    weight = weight.detach()
    parts = [torch.empty_like(part) for part in _fake(weight, channels, as_taps)]
    for part, slice_, taps in zip(parts, weight.split(list(channels), dim=1), as_taps, strict=True):
        if not taps:
            part.copy_(slice_)
        elif _has_kernels(weight):
            _kernels().copy_to_taps(slice_, part)
        else:
            part.copy_(slice_.permute(2, 3, 0, 1).flatten(0, 2))
    return parts


def _run_join(parts: Sequence[Tensor], as_taps: Sequence[bool]) -> Tensor:
    weight = _fake_join(parts, as_taps)
    channels = [part.shape[1] for part in parts]
    for part, slice_, taps in zip(parts, weight.split(channels, dim=1), as_taps, strict=True):
        part = part.detach()
        if not taps:
            slice_.copy_(part)
        elif _has_kernels(weight):
            _kernels().copy_from_taps(part, slice_)
        else:
            slice_.copy_(part.unflatten(0, (3, 3, -1)).permute(2, 3, 0, 1))
    return weight


def _has_kernels(weight: Tensor) -> bool:
    return kernel_language(weight) == "numba" and weight.dtype in (torch.float32, torch.float64)


def _kernels() -> Any:
    from upernet.ops.conv3x3 import kernel_parts_cpu

    return kernel_parts_cpu


def _fake(weight: Tensor, channels: Sequence[int], as_taps: Sequence[bool]) -> list[Tensor]:
    outputs = weight.shape[0]
    return [
        weight.new_empty(9 * outputs, depth) if taps else weight.new_empty(outputs, depth, 3, 3)
        for depth, taps in zip(channels, as_taps, strict=True)
    ]


def _fake_join(parts: Sequence[Tensor], as_taps: Sequence[bool]) -> Tensor:
    outputs = parts[0].shape[0] // (9 if as_taps[0] else 1)
    return parts[0].new_empty(outputs, sum(part.shape[1] for part in parts), 3, 3)


def _save(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    ctx.as_taps = inputs[2]


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor, None, None]:
    return torch.ops.upernet.join_kernel(grads, ctx.as_taps), None, None


def _save_join(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    parts, ctx.as_taps = inputs
    ctx.channels = [part.shape[1] for part in parts]


def _backward_of_join(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None]:
    return torch.ops.upernet.split_kernel(grad, ctx.channels, ctx.as_taps), None


define_operator(
    "split_kernel(Tensor weight, SymInt[] channels, bool[] as_taps) -> Tensor[]",
    _run,
    _fake,
    save=_save,
    backward=_backward,
)
define_operator(
    "join_kernel(Tensor[] parts, bool[] as_taps) -> Tensor",
    _run_join,
    _fake_join,
    save=_save_join,
    backward=_backward_of_join,
)
