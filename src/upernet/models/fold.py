"""Preparation of a network for inference: folded batch norms, packed weights and, on request, bfloat16 or int8."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from upernet.errors import UpernetError
from upernet.models.internimage import can_pack
from upernet.models.protocol import ConvNormPair
from upernet.ops import bfloat16_unavailable, int8_unavailable
from upernet.ops.runtime.availability import numba_unavailable
from upernet.ops.runtime.heap import keep_part_of_heap

Precision = Literal["fp32", "bf16", "int8"]
Network = TypeVar("Network", bound=nn.Module)


def prepare_for_inference(model: Network, precision: Precision = "fp32", calibration: Sequence[Tensor] = ()) -> Network:
    """Return a copy of `model` in eval mode that computes the same faster, up to rounding.

    Batch norms of the backbone are folded (see `folded`). On CPUs, the weights of InternImage's blocks are packed, and
    in float32 those of the 3x3 convolutions of a decoder on top of them. Packed layers compute without gradients, and
    `use_kernel` does not affect them. Each is one operator for torch's compiler and exporter; a program that is
    exported from such a network needs this package and the same kind of processor. If there is nothing to do, the model
    itself is returned.

    With `precision="bf16"`, the layers that a module's class names as `bfloat16_layers` multiply in bfloat16, which is
    faster again but changes the results (docs/performance.md has the difference). Everything between those layers and
    the decoder's sums stay in float32. So do the classifiers, because rounded logits tie and a classifier is a small
    part of the work. A backbone without such layers (timm, EfficientNet-Lite, ResNet) computes in bfloat16 from end to
    end, apart from the statistics of batch norms that could not be folded, and returns float32 maps.

    With `precision="int8"`, the linear layers of InternImage and FlashInternImage, and the 3x3 convolutions and lateral
    connections of the decoder, multiply in int8; all else, other backbones included, stays in float32. The ranges of
    the numbers that are rounded to int8 are those of the images of `calibration`. Such a network can neither be
    compiled nor exported by torch.

    Where the C library is GNU's, up to 256 MiB of the memory of freed tensors that are smaller than 32 MiB stay in the
    process from then on, for the tensors that come next. `upernet.ops.release_memory` frees it.

    The copy holds packed weights in place of plain ones and shares all other tensors with `model`, which does not
    change. Prepare again when the weights change, and neither train nor save the copy.

    Args:
        model: The network.
        precision: What products compute in.
        calibration: For int8, images as the network takes them, float32 N x 3 x H x W each.

    Raises:
        UpernetError: The precision is unknown, the model is not on a CPU that multiplies in it, or int8 is not given
            images.
    """
    if precision == "bf16":
        _check_cpu(model, precision, bfloat16_unavailable())
    elif precision == "int8":
        _check_cpu(model, precision, int8_unavailable())
        if not calibration:
            raise UpernetError("precision int8 needs photos to find the ranges of numbers; give some as `calibration`.")
    elif precision != "fp32":
        raise UpernetError(f"precision {precision!r} is unknown; choose fp32, bf16 or int8.")
    keep_part_of_heap()
    packable = _runs_packed(model)
    prepared = folded(model)
    if precision == "fp32" and not packable:
        return prepared
    if prepared is model:
        prepared = _copy(model)
    if precision == "bf16":
        backbone = getattr(prepared, "backbone", prepared)
        if not any(_bfloat16_layers(module) for module in backbone.modules()):
            _compute_in_bfloat16(backbone)
    if precision == "int8":
        from upernet.models.int8 import replace_by_int8

        replace_by_int8(prepared, calibration)
    elif packable:
        from upernet.models.packed_block import pack_blocks

        products = torch.bfloat16 if precision == "bf16" else torch.float32
        pack_blocks(prepared, lambda _: products)
        if precision == "fp32":
            from upernet.models.packed_conv3x3 import pack_convolutions

            pack_convolutions(prepared)
    if precision == "bf16":
        for parent in prepared.modules():
            for name in _bfloat16_layers(parent):
                _round(parent.get_submodule(name), "weight")
    return prepared


def folded(model: Network) -> Network:
    """Return a copy of `model` in eval mode whose batch norms are folded, or the model, if there is nothing to fold.

    Batch norms of the backbone are merged with the convolutions before them, whose weights become channels-last on
    CPUs. The decoder folds its own batch norms when it runs. The copy shares all other tensors with `model`.
    """
    if not foldable_pairs(model):
        return model.eval()
    prepared = _copy(model)
    fold(prepared, foldable_pairs(prepared))
    return prepared


def _copy(model: Network) -> Network:
    """Return a copy in eval mode that shares the tensors of `model`."""
    shared: dict[int, Tensor] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared).eval()  # pyright: ignore[reportArgumentType]


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


def _runs_packed(model: nn.Module) -> bool:
    """Return whether a model has blocks for packed weights, and the processor runs them."""
    fits = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    return fits and any(map(can_pack, model.modules())) and not numba_unavailable("packed.linear_cpu")


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


def _check_cpu(model: nn.Module, precision: str, unavailable: str) -> None:
    devices = {parameter.device.type for parameter in model.parameters()}
    if devices - {"cpu"}:
        raise UpernetError(f"precision {precision} is for CPUs, not {', '.join(sorted(devices))}; leave it out.")
    if unavailable:
        raise UpernetError(f"precision {precision}: {unavailable}; leave it out.")
