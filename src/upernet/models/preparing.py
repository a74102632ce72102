"""A network made ready for inference: batch norms of the backbone folded into the convolutions before them."""

from __future__ import annotations

import copy
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

CALLED_IN_ORDER = {
    "torch.nn.modules.container",  # Sequential
    "timm.models._features",  # FeatureListNet
    "timm.models._efficientnet_blocks",
    "timm.models.efficientnet",
    "timm.models.resnet",
    "upernet.models.efficientnet_lite",
}
"""Python modules with the classes whose children are called one after another, each on what the one before returned. Of
other classes nothing is known, so their batch norms stay."""


Network = TypeVar("Network", bound=nn.Module)


def prepare_for_inference(model: Network) -> Network:
    """A copy of `model` in eval mode that computes the same faster, up to rounding; `model` itself if it has no gain.

    Batch norms of the backbone are folded into the convolutions before them, which on CPUs work channels-last: measured
    on two threads, EfficientNet-Lite2 takes less than half of the time, and ResNet-50 four fifths. The decoder folds
    its own.

    The copy shares all other tensors with `model`, which does not change. Make another one when weights do, and neither
    train nor save it.
    """
    if not any(_pairs(parent) for parent in model.modules()):
        return model.eval()
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    prepared = copy.deepcopy(model, shared).eval()
    for parent in prepared.modules():
        for conv_name, norm_name in _pairs(parent):
            conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
            weight, bias = _folded(conv, norm)
            if weight.device.type == "cpu":
                weight = weight.contiguous(memory_format=torch.channels_last)
            conv.weight = nn.Parameter(weight, requires_grad=False)
            conv.bias = nn.Parameter(bias, requires_grad=False)
            setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms may have an activation
    return prepared


def _pairs(parent: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the batch norm that follows it."""
    if type(parent).__module__ not in CALLED_IN_ORDER:
        return []
    return [
        (conv_name, norm_name)
        for (conv_name, conv), (norm_name, norm) in pairwise(parent.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    ]


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what both do; computed in float64."""
    mean, variance = (norm.get_buffer(name).double() for name in ("running_mean", "running_var"))
    scale = (variance + norm.eps).rsqrt()
    shift = -mean if conv.bias is None else conv.bias.double() - mean
    if norm.affine:
        scale = scale * norm.weight.double()
    bias = shift * scale + (norm.bias.double() if norm.affine else 0)
    weight = conv.weight.double() * scale[:, None, None, None]
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)
