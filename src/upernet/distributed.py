"""Process rank, number of processes, and sums over all processes; without torch.distributed, there is one process."""

from __future__ import annotations

import torch
from torch import Tensor


def rank() -> int:
    """Return the number of this process, from 0."""
    return torch.distributed.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return torch.distributed.get_world_size() if _initialized() else 1


def sum_over_processes(tensor: Tensor) -> None:
    """Replace the CPU tensor `tensor` by its sum over all processes, in place."""
    if not _initialized():
        return
    on_gpu = torch.distributed.get_backend() == "nccl"
    total = tensor.cuda() if on_gpu else tensor
    torch.distributed.all_reduce(total)
    tensor.copy_(total)


def _initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
