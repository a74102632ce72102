"""A network made ready for inference: batch norms folded, and if wished, weights in bfloat16."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import chain, pairwise
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from upernet.errors import UpernetError
from upernet.models.decoder import Conv3x3BnRelu, Lateral
from upernet.models.internimage import DCNv3, Mlp
from upernet.ops import bfloat16_unavailable

Precision = Literal["fp32", "bf16"]

CALLED_IN_ORDER = {
    "torch.nn.modules.container",
    "timm.models._features",  # FeatureListNet
    "timm.models._efficientnet_blocks",
    "timm.models.efficientnet",
    "timm.models.resnet",
    "upernet.models.efficientnet_lite",
}
"""Python modules with the classes whose children are called one after another, each on what the one before returned. Of
other classes nothing is known, so their batch norms stay."""

IN_BFLOAT16: dict[type[nn.Module], tuple[str, ...]] = {
    DCNv3: ("input_proj", "output_proj", "mask", "offset"),
    Mlp: ("fc1", "fc2"),
    Conv3x3BnRelu: ("0",),
    Lateral: ("0",),
}
"""Layers whose products may be of bfloat16. What is between them, and the sums of the decoder's, stay in float32; so do
the classifiers: rounded logits tie, and a classifier is a small part of the products."""

Network = TypeVar("Network", bound=nn.Module)


def prepare_for_inference(model: Network, precision: Precision = "fp32") -> Network:
    """A copy of `model` in eval mode that computes the same faster, up to rounding; `model` itself if it has no gain.

    Batch norms of the backbone are folded into the convolutions before them, which on CPUs work channels-last. The
    decoder folds its own.

    With `precision` "bf16", the layers of `IN_BFLOAT16` multiply in bfloat16: faster again, and no longer the same
    (docs/performance.md has the difference). The timm backbones and EfficientNet-Lite stay in float32.

    The copy shares all other tensors with `model`, which does not change. Make another one when weights do, and neither
    train nor save it.

    Raises:
        UpernetError: the precision is another, or this is not a CPU that multiplies bfloat16.
    """
    reduced = precision == "bf16"
    if reduced:
        _check_bfloat16(model)
    elif precision != "fp32":
        raise UpernetError(f"precision {precision!r}: choose fp32 or bf16.")
    if not reduced and not _pairs(model):
        return model.eval()
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    prepared = copy.deepcopy(model, shared).eval()
    for parent, conv_name, norm_name in _pairs(prepared):
        conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
        weight, bias = _folded(conv, norm)
        if weight.device.type == "cpu":
            weight = weight.contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms may have an activation
    for parent in prepared.modules():
        for name in IN_BFLOAT16.get(type(parent), ()) if reduced else ():
            layer = parent.get_submodule(name)
            weight = layer.get_parameter("weight").detach()
            layer.register_parameter("weight", nn.Parameter(weight.bfloat16(), requires_grad=False))
    return prepared


def _check_bfloat16(model: nn.Module) -> None:
    devices = {parameter.device.type for parameter in model.parameters()}
    if devices - {"cpu"}:
        raise UpernetError(f"precision bf16 is for CPUs, not {', '.join(sorted(devices))}; leave it out.")
    if fault := bfloat16_unavailable():
        raise UpernetError(f"precision bf16: {fault}; leave it out.")


def _pairs(model: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """The parent and the names of each convolution and the batch norm that always follows it."""
    parents = Counter(id(child) for parent in model.modules() for child in parent.children())
    return [
        (parent, conv_name, norm_name)
        for parent in model.modules()
        if type(parent).__module__ in CALLED_IN_ORDER and type(parent) not in (nn.ModuleList, nn.ModuleDict)
        for (conv_name, conv), (norm_name, norm) in pairwise(parent.named_children())
        if isinstance(conv, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        and not is_parametrized(conv)
        and parents[id(conv)] == parents[id(norm)] == 1
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
