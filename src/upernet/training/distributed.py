"""One process or many: what `torchrun` sets up, and the sums that processes share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes, without gradient."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()


def join_world(device: str | None) -> World:
    """Join the processes that `torchrun` started (nccl on GPUs, gloo on CPUs); alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and size > 1:
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(kind)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    return World(rank, size, torch.device(kind))


def leave_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def synchronize_batch_norms(module: nn.Module) -> None:
    """Let every batch norm of `module` use the statistics of all processes' batches, on any device.

    torch.nn.SyncBatchNorm does this on GPUs only and knows no norms with an activation (timm's). Here the modules,
    their parameters and their names stay; only their forward pass in training mode changes.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.forward = partial(_synchronized_forward, norm)  # pyright: ignore[reportAttributeAccessIssue]


def _synchronized_forward(norm: Any, x: Tensor) -> Tensor:
    """Batch norm of N x C x H x W whose sums over N, H and W are reduced over processes, with gradient."""
    if not norm.training:
        return type(norm).forward(norm, x)
    values = x.float()
    count = values.new_full((1,), x.numel() / x.shape[1])
    sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
    total = dist_functional.all_reduce(sums)
    channels = x.shape[1]
    mean = total[:channels] / total[-1]
    variance = (total[channels:-1] / total[-1] - mean.square()).clamp(min=0)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = norm.momentum if norm.momentum is not None else 1 / int(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * total[-1] / (total[-1] - 1), momentum)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    y = (values * scale[:, None, None] + (norm.bias - mean * scale)[:, None, None]).to(x.dtype)
    return norm.act(norm.drop(y)) if hasattr(norm, "act") else y
