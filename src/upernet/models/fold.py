"""Preparation of a network for inference: folded batch norms and, on request, weights in bfloat16."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from upernet.errors import UpernetError
from upernet.models.protocol import ConvNormPair
from upernet.ops import bfloat16_unavailable

Precision = Literal["fp32", "bf16"]
Network = TypeVar("Network", bound=nn.Module)


def prepare_for_inference(model: Network, precision: Precision = "fp32") -> Network:
    """Return a copy of `model` in eval mode that computes the same faster, up to rounding.

    Batch norms of the backbone are folded into the convolutions before them, whose weights become channels-last on
    CPUs. The decoder folds its own batch norms. If there is nothing to fold, the model itself is returned.

    With `precision="bf16"`, the layers that a module's class names as `bfloat16_layers` multiply in bfloat16, which is
    faster again but changes the results (docs/performance.md has the difference). Everything between those layers and
    the decoder's sums stay in float32. So do the classifiers, because rounded logits tie and a classifier is a small
    part of the work. A backbone without such layers (timm, EfficientNet-Lite, ResNet) computes in bfloat16 from end to
    end, apart from the statistics of batch norms that could not be folded, and returns float32 maps.

    The copy shares all other tensors with `model`, which does not change. Prepare again when the weights change, and
    neither train nor save the copy.

    Raises:
        UpernetError: the precision is unknown, or the model is not on a CPU that multiplies bfloat16.
    """
    reduced = precision == "bf16"
    if reduced:
        _check_bfloat16(model)
    elif precision != "fp32":
        raise UpernetError(f"precision {precision!r} is unknown; choose fp32 or bf16.")
    shared: dict[int, Tensor] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    prepared = copy.deepcopy(model, shared).eval()  # pyright: ignore[reportArgumentType]
    pairs = foldable_pairs(prepared)
    if not pairs and not reduced:
        return model.eval()
    fold(prepared, pairs)
    if reduced:
        backbone = getattr(prepared, "backbone", prepared)
        if not any(_bfloat16_layers(module) for module in backbone.modules()):
            _compute_in_bfloat16(backbone)
        for parent in prepared.modules():
            for name in _bfloat16_layers(parent):
                _round(parent.get_submodule(name), "weight")
    return prepared


def foldable_pairs(model: nn.Module) -> list[ConvNormPair]:
    """Return the pairs that the backbone of `model` can merge, or those of `model` if it is a backbone."""
    find = getattr(getattr(model, "backbone", model), "foldable_pairs", None)
    return [] if find is None else list(find())


@torch.no_grad()
def fold(network: nn.Module, pairs: list[ConvNormPair]) -> None:
    """Merge each batch norm of `pairs` into its convolution, in place, and take it out of `network`.

    Weights are computed in float64 and rounded once.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    for conv, norm, after in pairs:
        tensors = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        weight, bias, mean, variance, scale, shift = (None if t is None else t.double() for t in tensors)
        assert weight is not None and mean is not None and variance is not None  # the pair has been checked
        weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
        dtype, on_cpu = conv.weight.dtype, conv.weight.device.type == "cpu"
        weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
        if on_cpu:
            weight = weight.contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        replacements[norm] = after[0] if len(after) == 1 else nn.Sequential(*after)
    modules = cast(list[tuple[str, nn.Module]], [*network.named_modules(remove_duplicate=False)])
    for path, module in modules:
        if module in replacements:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, replacements[module])


def _bfloat16_layers(module: nn.Module) -> tuple[str, ...]:
    return getattr(type(module), "bfloat16_layers", ())


def _compute_in_bfloat16(backbone: nn.Module) -> None:
    """Let a backbone take float32 images and return float32 maps, and compute in bfloat16 between them."""
    for module in backbone.modules():
        if not isinstance(module, nn.BatchNorm2d):
            for name, _ in list(module.named_parameters(recurse=False)):
                _round(module, name)
            for name, buffer in list(module.named_buffers(recurse=False)):
                if buffer.is_floating_point():
                    setattr(module, name, buffer.bfloat16())
    backbone.register_forward_pre_hook(_images_to_bfloat16)
    backbone.register_forward_hook(_maps_to_float32)


def _round(layer: nn.Module, name: str) -> None:
    parameter = layer.get_parameter(name).detach()
    layer.register_parameter(name, nn.Parameter(parameter.bfloat16(), requires_grad=False))


def _images_to_bfloat16(backbone: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    return (arguments[0].bfloat16(),)


def _maps_to_float32(backbone: nn.Module, arguments: tuple[Tensor], maps: list[Tensor]) -> list[Tensor]:
    return [found.float() for found in maps]


def _check_bfloat16(model: nn.Module) -> None:
    devices = {parameter.device.type for parameter in model.parameters()}
    if devices - {"cpu"}:
        raise UpernetError(f"precision bf16 is for CPUs, not {', '.join(sorted(devices))}; leave it out.")
    if reason := bfloat16_unavailable():
        raise UpernetError(f"precision bf16: {reason}; leave it out.")
