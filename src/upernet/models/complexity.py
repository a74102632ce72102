"""The size of a network: parameters and multiply-adds."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


class Complexity(NamedTuple):
    """The size of a network and its work on one image."""

    params: int
    """Parameters, including those of the auxiliary head."""
    macs: int
    """Multiply-adds of convolutions, linear layers and DCNv3, without the auxiliary head."""


def count(model: nn.Module, height: int, width: int) -> Complexity:
    """Return the size of `model` and its work on one RGB image of `height` x `width` pixels, in eval mode.

    Only shapes are computed: the forward pass runs on the `meta` device, whatever the device of `model`. The numbers
    published for UPerNet-InternImage also count norms and ReLUs, but not the gates of InternImage-H; they differ from
    these by less than 0.15 %.
    """
    tensors = chain(model.named_parameters(), model.named_buffers())
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(model, shapes, torch.empty(1, 3, height, width, device="meta"))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Complexity(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)
