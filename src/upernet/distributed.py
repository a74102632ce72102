"""Data parallelism: the processes that `torchrun` starts, sums over them, and batch norms that they share.

Without torch.distributed, all functions behave as in a world of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from upernet.devices import default_device, usable_device

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all processes, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0


def join_world(device: str | None) -> World:
    """Join the processes that `torchrun` started, if it did: over NCCL on GPUs, over Gloo on CPUs.

    Args:
        device: Device to compute on; None: a GPU if there is one. With several processes, "cuda" is the GPU of the
            local rank.

    Raises:
        UpernetError: The device cannot be used.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    name = device or str(default_device())
    if name == "cuda" and size > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    chosen = usable_device(name)
    if size > 1 and chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return World(int(os.environ.get("RANK", "0")), size, chosen)


def leave_world() -> None:
    """Leave the process group, if one was joined."""
    if _initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _initialized() else 1


def wait_for_all() -> None:
    """Wait until every process has called this function."""
    if _initialized():
        dist.barrier()


def sum_over_processes(tensor: Tensor) -> None:
    """Replace `tensor` by its sum over all processes, in place and without gradient; it may be on any device."""
    if not _initialized():
        return
    on_gpu = dist.get_backend() == "nccl"
    total = tensor.cuda() if on_gpu else tensor
    dist.all_reduce(total)
    tensor.copy_(total)


def broadcast_from_main(tensors: Iterable[Tensor]) -> None:
    """Replace the tensors of all processes by those of the main one, in place; they may be on any device."""
    if not _initialized():
        return
    on_gpu = dist.get_backend() == "nccl"
    for tensor in tensors:
        sent = (tensor.detach().cuda() if on_gpu else tensor.detach()).contiguous()
        dist.broadcast(sent, src=0)
        tensor.detach().copy_(sent)


def gather_over_processes(value: T) -> list[T]:
    """Return the values of all processes, in order of rank; they travel as pickled objects."""
    if not _initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def synchronize_batch_norms(module: nn.Module) -> None:
    """Let every batch norm of `module` use the statistics of the batches of all processes, on any device.

    torch.nn.SyncBatchNorm supports GPUs only, and replaces modules, which would lose the activations of timm's norms.
    Here the modules, their parameters and their names stay; only their forward pass in training mode changes.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.forward = partial(_synchronized_forward, norm)  # pyright: ignore[reportAttributeAccessIssue]


def _synchronized_forward(norm: Any, x: Tensor) -> Tensor:
    """Apply `norm` to x, N x C x H x W, with the statistics of all processes' batches."""
    if not norm.training:
        return type(norm).forward(norm, x)
    normalized, mean, variance, count = _Normalization.apply(x, norm.eps)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = norm.momentum if norm.momentum is not None else 1 / int(norm.num_batches_tracked)
        unbiased = variance * count / (count - 1).clamp(min=1)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
    y = torch.addcmul(norm.bias[:, None, None], normalized, norm.weight[:, None, None]).to(x.dtype)
    return norm.act(norm.drop(y)) if hasattr(norm, "act") else y


class _Normalization(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) in float32, with the mean and variance over N, H and W of all processes.

    E[x^2] - E[x]^2 would lose a variance that is small beside the mean. So each process centers its values first, and
    the processes merge their means and sums of squared deviations (Chan et al. 1979), like torch.nn.SyncBatchNorm. The
    statistics, C numbers each, are merged in float64.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        values = x.float()
        shift = values.mean((0, 2, 3))
        centered = values - shift[:, None, None]
        # The mean is rounded to float32; what is left of it remains in `centered`.
        rest = centered.mean((0, 2, 3)).double()
        squares = centered.square().mean((0, 2, 3)).double() - rest.square()
        count = rest.new_tensor([x.numel() / x.shape[1]])
        parts = torch.stack(_gather(torch.cat([shift.double() + rest, squares, count])))
        means, variances, counts = parts.tensor_split((x.shape[1], 2 * x.shape[1]), dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = ((counts * (variances + (means - mean).square())).sum(0) / total).clamp(min=0)
        inverse = (variance + eps).rsqrt().float()
        normalized = (centered - (mean - shift).float()[:, None, None]) * inverse[:, None, None]
        ctx.save_for_backward(normalized, inverse, total)
        ctx.mark_non_differentiable(mean, variance, total)
        return normalized, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        normalized, inverse, total = ctx.saved_tensors
        gradient = gradient.float()
        sums = torch.stack([gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))]).double()
        sum_over_processes(sums)
        mean, slope = (sums / total).float()[:, :, None, None]
        return (gradient - mean - normalized * slope) * inverse[:, None, None], None


def _gather(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, which have the same shape, in order of rank."""
    if not _initialized():
        return [tensor]
    tensors = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(tensors, tensor)
    return tensors


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
