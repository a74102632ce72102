"""3x3 convolution over several maps, each brought to the size of the first.

The plain way resizes all maps, concatenates them and convolves. But a 3x3 convolution is a sum of nine shifted 1x1
convolutions, and a 1x1 convolution commutes with bilinear resizing: the nine products of a coarse map are computed at
its own resolution, and resized, shifted and added after that. Per pixel of the fine map and input channel of a map
that is f times coarser, that takes 9 / f^2 multiplications instead of 9.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from upernet.ops.choice import OVERRIDES, Choice, decide, fault_of_bfloat16, fault_of_numba
from upernet.ops.linear import linear

MIN_TILES = 16
"""Of 4 x 4 outputs. With fewer, reading the transformed weights takes as long as a direct convolution."""
MIN_CHANNELS = 64
"""Of input and output. With fewer, the transforms take longer than the products save."""
LANES = 16
"""What channels must be a multiple of for the Numba kernels."""
MAX_SIDE = 2**15
"""Of maps for the Triton kernels, which count with 32 bits."""
MIN_TRAINED = 128
"""Channels of input and output, and tiles of all images, for Winograd's transforms in training. With fewer, it takes as
long to transform the weight three times."""
HAS_TRITON = importlib.util.find_spec("triton") is not None

Convolution = Callable[[Tensor, Tensor], Tensor]


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Resize N x C x h x w bilinearly to `size` (height, width); pixel centres lie at half integers."""
    if x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Resize `x` bilinearly to the height and width of `reference`."""
    return resize(x, reference.shape[-2:])


def choose_conv3x3(maps: Sequence[Tensor], weight: Tensor, *others: Tensor | None) -> Choice:
    """The kernel of `upsample_conv3x3` for these arguments, and why.

    - `concat` is the published way: resize, concatenate, convolve.
    - `torch` convolves each map by itself and adds, without the large concatenation.
    - `direct` convolves maps as large as the first like that, and coarser ones at their own resolution, with a Numba
      kernel on CPUs and a Triton kernel on GPUs (`use_kernel(upsample_taps="triton")` overrides that).
    - `winograd` sends the first map through Winograd's transforms, and others along with it where that takes as few
      multiplications as their own resolution. With gradients, it is `direct` with Winograd's transforms in place of
      `conv2d`, forward and backward.
    """
    first = maps[0]
    if "conv3x3" in OVERRIDES:
        return Choice(OVERRIDES["conv3x3"], "asked for with use_kernel")
    has_coarse = bool(_coarse(maps, winograd=False))
    if first.device.type == "cuda":
        if reason := _needs_torch_on_gpu(*maps, weight):
            return Choice("torch", reason)
        return Choice("direct", "coarse maps") if has_coarse else Choice("torch", "no map is coarser than the first")
    if reason := _needs_torch(*maps) or _needs_torch_for(weight, first):
        return Choice("torch", reason)
    if _differentiated(*maps, weight, *others):
        if _worth_training(first, weight) and not (fault := fault_of_numba("winograd_gradient")):
            return Choice("winograd", f"with gradients, at least {MIN_TRAINED} channels and as many tiles")
        wanted = Choice("direct" if has_coarse else "torch", "with gradients")
    elif _tiles(first) >= MIN_TILES and min(weight.shape[0], first.shape[1]) >= MIN_CHANNELS:
        wanted = Choice("winograd", f"at least {MIN_CHANNELS} channels and {MIN_TILES} tiles")
    else:
        wanted = Choice("direct" if has_coarse else "torch", "too small for Winograd's transforms")
    if wanted.kernel != "torch" and not torch.compiler.is_compiling() and (fault := fault_of_numba("winograd")):
        return Choice("torch", fault)
    return wanted


def upsample_conv3x3(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`conv2d(cat(maps resized to the first), weight, padding=1) * scale + shift`, rectified if `relu`.

    Resizing is bilinear with pixel centres at half integers (`F.interpolate`, `align_corners=False`). Winograd's
    rounding errors are relative to the largest input of a tile of 6 x 6; an infinite one turns its outputs into NaN.

    Args:
        maps: N x C_k x h_k x w_k each, of any memory format. A single one makes this a convolution.
        weight: D x (C_1 + C_2 + ...) x 3 x 3, of the maps' type; or bfloat16 with float32 maps, for products of
            bfloat16 that are summed in float32.
        scale, shift: D.

    Returns:
        N x D x h_1 x w_1; on a CPU and without gradients, channels-last in memory if the kernel is `direct` or
        `winograd`.

    Raises:
        ValueError: shapes do not fit together.
    """
    _check(maps, weight, scale, shift)
    kernel = decide("conv3x3", choose_conv3x3(maps, weight, scale, shift), *maps, weight)
    if kernel == "concat":
        resized = torch.cat([resize_like(x, maps[0]) for x in maps], dim=1)
        return _finish(F.conv2d(resized, weight.to(resized.dtype), padding=1), scale, shift, relu)
    if kernel == "torch":
        return _finish(_sum_of_convolutions(maps, _split(weight, maps)), scale, shift, relu)
    by_triton = _language("upsample_taps", maps[0]) == "triton"
    if kernel not in ("direct", "winograd"):
        raise ValueError(f"upsample_conv3x3 has no kernel {kernel}: choose from concat, torch, direct, winograd")
    if (kernel == "direct" and by_triton) or _differentiated(*maps, weight, scale, shift):
        convolve = _conv3x3 if kernel == "winograd" else _conv2d
        return _finish(_direct(maps, weight, convolve), scale, shift, relu)
    return torch.ops.upernet.upsample_conv3x3(list(maps), weight, scale, shift, relu, kernel == "winograd")


def choose_lateral(x: Tensor, weight: Tensor, coarse: Tensor, *others: Tensor) -> Choice:
    """The kernel of `lateral` for these arguments, and why."""
    if "lateral" in OVERRIDES:
        return Choice(OVERRIDES["lateral"], "asked for with use_kernel")
    on_gpu = x.device.type == "cuda"
    if on_gpu:
        reason = _needs_torch_on_gpu(x, coarse, weight)
    else:
        reason = _needs_torch(x, coarse) or _needs_torch_for(weight, x)
    if reason:
        return Choice("torch", reason)
    if _differentiated(x, weight, coarse, *others):
        return Choice("torch", "with gradients")
    if on_gpu:
        return Choice("triton", "one pass after the product instead of four")
    if not torch.compiler.is_compiling() and (fault := fault_of_numba("winograd")):
        return Choice("torch", fault)
    return Choice("numba", "some rows at a time, which stay in the cache from the product to the sum")


def lateral(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """relu(conv2d(x, weight) * scale + shift) + `coarse` resized to x: a step of the way down a feature pyramid.

    Args:
        x: N x C x H x W, of any memory format.
        weight: D x C x 1 x 1, of x's type or bfloat16 as in `upsample_conv3x3`.
        scale, shift: D.
        coarse: N x D x h x w.

    Returns:
        N x D x H x W; channels-last in memory if the kernel is `numba`.

    Raises:
        ValueError: shapes do not fit together.
    """
    _check_lateral(x, weight, scale, shift, coarse)
    kernel = decide("lateral", choose_lateral(x, weight, coarse, scale, shift), x, weight, coarse)
    if kernel == "torch":
        return _finish(F.conv2d(x, weight.to(x.dtype)), scale, shift, relu=True) + resize_like(coarse, x)
    if kernel == "triton":
        return torch.ops.upernet.add_resized(F.conv2d(x, weight), scale, shift, coarse)
    if kernel != "numba":
        raise ValueError(f"lateral has no kernel {kernel}: choose from torch, numba, triton")
    return torch.ops.upernet.lateral(x, weight, scale, shift, coarse)


def _check(maps: Sequence[Tensor], weight: Tensor, *per_channel: Tensor | None) -> None:
    """Of everything that the kernels, which look at no bounds, rely on."""
    shapes = ", ".join(str(tuple(x.shape)) for x in maps)
    if any(x.dim() != 4 or x.shape[0] != maps[0].shape[0] for x in maps):
        raise ValueError(f"upsample_conv3x3: maps must be N x C x H x W with one N, not {shapes}")
    if weight.dim() != 4 or tuple(weight.shape[1:]) != (sum(x.shape[1] for x in maps), 3, 3):
        raise ValueError(f"upsample_conv3x3: a weight of shape {tuple(weight.shape)} does not fit maps {shapes}")
    for x in per_channel:
        if x is not None and tuple(x.shape) != (weight.shape[0],):
            raise ValueError(
                f"upsample_conv3x3: scale and shift must have {weight.shape[0]} values, not {tuple(x.shape)}"
            )


def _check_lateral(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> None:
    if x.dim() != 4 or coarse.dim() != 4 or x.shape[0] != coarse.shape[0]:
        raise ValueError(f"lateral: maps {tuple(x.shape)} and {tuple(coarse.shape)} must be N x C x H x W with one N")
    if tuple(weight.shape) != (coarse.shape[1], x.shape[1], 1, 1):
        shapes = f"{tuple(x.shape)}, {tuple(coarse.shape)}"
        raise ValueError(f"lateral: a weight of shape {tuple(weight.shape)} does not fit maps {shapes}")
    if not tuple(scale.shape) == tuple(shift.shape) == (coarse.shape[1],):
        raise ValueError(f"lateral: scale and shift must have {coarse.shape[1]} values")


def _needs_torch(*maps: Tensor) -> str:
    """Why the Numba kernels are not for these maps, empty if they are."""
    return "autocast has its own types" if torch.is_autocast_enabled("cpu") else _unfit(*maps)


def _unfit(*maps: Tensor) -> str:
    """Why the Numba kernels cannot take these maps, autocast or not, empty if they can."""
    first = maps[0]
    if first.device.type != "cpu" or first.dtype not in (torch.float32, torch.float64):
        return f"there is no other kernel for {first.dtype} on {first.device.type}"
    if any(x.dtype != first.dtype for x in maps):
        return "maps differ in type"
    if any(x.shape[1] % LANES for x in maps):
        return f"channels are not a multiple of {LANES}"
    return "" if all(x.numel() for x in maps) else "a map is empty"


def _needs_torch_for(weight: Tensor, x: Tensor) -> str:
    if weight.shape[0] % LANES:
        return f"outputs are not a multiple of {LANES}"
    if weight.dtype == torch.bfloat16 and x.dtype == torch.float32:
        return "" if torch.compiler.is_compiling() else fault_of_bfloat16()
    return "" if weight.dtype == x.dtype else f"the weight is not of {x.dtype}"


def _needs_torch_on_gpu(*tensors: Tensor) -> str:
    """Why the Triton kernels cannot take these maps, and a weight if there is one; empty if they can."""
    if not HAS_TRITON:
        return "Triton is not installed"
    types = {x.dtype for x in tensors}
    floats = {torch.float32, torch.float16, torch.bfloat16}
    if not types <= floats | {torch.float64}:
        return f"there is no other kernel for {tensors[0].dtype} on a GPU"
    if len(types) > 1 and not (torch.is_autocast_enabled("cuda") and types <= floats):
        return "maps and weights differ in type"
    if any(max(x.shape[2:]) > MAX_SIDE for x in tensors):
        return f"a map is longer than {MAX_SIDE} pixels"
    return "" if all(x.numel() for x in tensors) else "a map is empty"


def _language(operator: str, x: Tensor) -> str:
    """In which an operator's kernel for this map is written."""
    return OVERRIDES.get(operator, "triton" if x.device.type == "cuda" else "numba")


def _kernels(language: str) -> Any:
    """The module of `upernet.ops` with the kernels in a language."""
    if language not in ("numba", "triton"):
        raise ValueError(f"there is no kernel {language}: choose from numba, triton")
    return importlib.import_module(f"upernet.ops.fusion_{language}")


def _differentiated(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _coarse(maps: Sequence[Tensor], winograd: bool) -> list[int]:
    """The maps for which products at their own resolution are fewer than at the first map's.

    With Winograd's transforms, where they are not more: the weights take a quarter of the memory.
    """
    fine = maps[0].shape[2] * maps[0].shape[3]
    sizes = [x.shape[2] * x.shape[3] for x in maps]
    return [k for k, size in enumerate(sizes) if (4 * size <= fine if winograd else size < fine)]


def _channels(maps: Sequence[Tensor]) -> list[range]:
    """Which of the weight's input channels belong to each map."""
    stops = list(accumulate(x.shape[1] for x in maps))
    return [range(stop - x.shape[1], stop) for x, stop in zip(maps, stops, strict=True)]


def _tiles(x: Tensor) -> int:
    return -(-x.shape[2] // 4) * -(-x.shape[3] // 4)


def _worth_training(x: Tensor, weight: Tensor) -> bool:
    """Winograd's transforms in training, as measured; in float32, for which products are cheap enough."""
    enough = min(x.shape[1], weight.shape[0], x.shape[0] * _tiles(x)) >= MIN_TRAINED
    return enough and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def _split(weight: Tensor, maps: Sequence[Tensor]) -> Sequence[Tensor]:
    """The weight of each map. (Slices would each have a gradient as large as the whole.)"""
    return weight.to(maps[0].dtype).split([x.shape[1] for x in maps], dim=1)


def _conv2d(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def _conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """The same by Winograd's transforms, gradients included."""
    return torch.ops.upernet.conv3x3(x.permute(0, 2, 3, 1), weight, False).permute(0, 3, 1, 2)


def _sum_of_convolutions(maps: Sequence[Tensor], weights: Sequence[Tensor], convolve: Convolution = _conv2d) -> Tensor:
    """Of each map, resized to the first, with its own weight."""
    out = convolve(maps[0], weights[0])
    for x, weight in zip(maps[1:], weights[1:], strict=True):
        out += convolve(resize_like(x, maps[0]), weight)
    return out


def _finish(x: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool) -> Tensor:
    if scale is not None:
        x = x * scale.view(-1, 1, 1)
    if shift is not None:
        x = x + shift.view(-1, 1, 1)
    return x.relu() if relu else x


def _direct(maps: Sequence[Tensor], weight: Tensor, convolve: Convolution) -> Tensor:
    """With gradients."""
    coarse, weights = _coarse(maps, winograd=False), _split(weight, maps)
    fine = [k for k in range(len(maps)) if k not in coarse]
    out = _sum_of_convolutions([maps[k] for k in fine], [weights[k] for k in fine], convolve)
    if not coarse:
        return out
    products = [_products(maps[k], weights[k]) for k in coarse]
    return out + upsample_taps(products, *maps[0].shape[2:]).permute(0, 3, 1, 2)


def _products(x: Tensor, weight: Tensor) -> Tensor:
    """Of each pixel with the nine taps: N x h x w x (9 D)."""
    taps = weight.permute(2, 3, 0, 1).flatten(0, 2)
    if _language("upsample_taps", x) == "triton":  # a convolution, so that it rounds to TF32 where convolutions do
        return F.conv2d(x.contiguous(memory_format=torch.channels_last), taps[:, :, None, None]).permute(0, 2, 3, 1)
    return linear(x.permute(0, 2, 3, 1), taps)


def upsample_taps(products: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Resize and shift the products of coarse maps with the nine taps of a 3x3 kernel, and add all.

    Args:
        products: N x h_k x w_k x (9 D) each, contiguous, taps by rows; a GPU's of any float type, or a CPU's float32 or
            float64 with D a multiple of 16.

    Returns:
        N x height x width x D.
    """
    return torch.ops.upernet.upsample_taps(list(products), height, width)


def _run_taps(products: Sequence[Tensor], height: int, width: int) -> Tensor:
    if not products or any(x.dim() != 4 or not x.numel() for x in products) or min(height, width) < 1:
        raise ValueError("upsample_taps: products must be N x h x w x (9 D) and not empty")
    if any(x.dtype != products[0].dtype for x in products):
        raise ValueError("upsample_taps: products differ in type")
    language = _language("upsample_taps", products[0])
    lanes = LANES if language == "numba" else 1
    images, *_, channels = products[0].shape
    if channels % (9 * lanes) or any(x.shape[0] != images or x.shape[3] != channels for x in products):
        raise ValueError(f"upsample_taps: products must have one N, and 9 D channels with D a multiple of {lanes}")
    return _kernels(language).upsample_taps(products, height, width)


def _run_taps_gradient(grad: Tensor, height: int, width: int) -> Tensor:
    language = _language("upsample_taps", grad)
    if language == "numba" and grad.shape[3] % LANES:
        raise ValueError(f"upsample_taps_gradient: channels must be a multiple of {LANES}, not {grad.shape[3]}")
    return _kernels(language).upsample_taps_gradient(grad, height, width)


def _run_conv3x3(
    maps: Sequence[Tensor], weight: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool, winograd: bool
) -> Tensor:
    from upernet.ops import winograd as kernels

    _check(maps, weight, scale, shift)
    if reason := _needs_torch(*maps) or _needs_torch_for(weight, maps[0]):
        raise ValueError(f"upsample_conv3x3: {reason}")
    coarse, channels = _coarse(maps, winograd), _channels(maps)
    fine = [k for k in range(len(maps)) if k not in coarse]
    forms = kernels.Forms(weight)
    rows = [x.detach().permute(0, 2, 3, 1).contiguous() for x in maps]
    fine_rows, coarse_rows = [rows[k] for k in fine], [rows[k] for k in coarse]
    tap_forms = [forms.taps(channels[k]) for k in coarse]
    if winograd:
        one = maps[0].new_ones(weight.shape[0])
        scale = one if scale is None else scale.detach().to(one).contiguous()
        shift = 0 * one if shift is None else shift.detach().to(one).contiguous()
        transformed = forms.winograd([channels[k] for k in fine])
        out = kernels.convolve(fine_rows, transformed, coarse_rows, tap_forms, scale, shift, relu)
        return out.permute(0, 3, 1, 2)
    fine_maps = [x.permute(0, 3, 1, 2) for x in fine_rows]
    weights = _split(weight.detach(), maps)
    out = _sum_of_convolutions(fine_maps, [weights[k] for k in fine])
    out = out.permute(0, 2, 3, 1).contiguous()
    kernels.add_coarse(coarse_rows, tap_forms, out)
    return _finish(out.permute(0, 3, 1, 2), scale, shift, relu)


def _run_one(rows: Tensor, weight: Tensor, adjoint: bool) -> Tensor:
    from upernet.ops import winograd_gradient

    x, applied = rows.transpose(1, -1), weight.transpose(0, 1) if adjoint else weight
    _check([x], applied)
    if reason := _unfit(x, applied) or _needs_torch_for(applied, x):
        raise ValueError(f"conv3x3: {reason}")
    return winograd_gradient.convolution(rows.detach().contiguous(), weight.detach(), adjoint)


def _fake_one(rows: Tensor, weight: Tensor, adjoint: bool) -> Tensor:
    return rows.new_empty(*rows.shape[:3], weight.shape[1 if adjoint else 0])


def _run_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    from upernet.ops import winograd_gradient

    if grad.dim() != 4 or x.dim() != 4 or grad.shape[:3] != x.shape[:3]:
        raise ValueError(f"conv3x3_weight_gradient: {tuple(grad.shape)} and {tuple(x.shape)} must agree in N, H and W")
    if reason := _unfit(x.transpose(1, -1), grad.transpose(1, -1)):
        raise ValueError(f"conv3x3_weight_gradient: {reason}")
    return winograd_gradient.weight_gradient(grad.detach().contiguous(), x.detach().contiguous())


def _fake_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(grad.shape[3], x.shape[3], 3, 3)


def _run_lateral(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    from upernet.ops import winograd as kernels

    _check_lateral(x, weight, scale, shift, coarse)
    if reason := _needs_torch(x, coarse) or _needs_torch_for(weight, x):
        raise ValueError(f"lateral: {reason}")
    x, coarse = (each.detach().permute(0, 2, 3, 1).contiguous() for each in (x, coarse))
    scale, shift = (each.detach().to(x).contiguous() for each in (scale, shift))
    return kernels.lateral(x, weight.detach().flatten(1), scale, shift, coarse).permute(0, 3, 1, 2)


def _fake_lateral(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    images, _, height, width = x.shape
    return x.new_empty(images, height, width, weight.shape[0]).permute(0, 3, 1, 2)


def _run_add_resized(x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    if coarse.shape[:2] != x.shape[:2] or not tuple(scale.shape) == tuple(shift.shape) == (x.shape[1],):
        raise ValueError(f"add_resized: maps {tuple(x.shape)} and {tuple(coarse.shape)} must agree in N and C")
    return _kernels("triton").add_resized(x, scale, shift, coarse)


def _fake_add_resized(x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(x, memory_format=torch.channels_last if last else torch.contiguous_format)


def _fake_taps(products: Sequence[Tensor], height: int, width: int) -> Tensor:
    return products[0].new_empty(products[0].shape[0], height, width, products[0].shape[3] // 9)


def _fake_taps_gradient(grad: Tensor, height: int, width: int) -> Tensor:
    return grad.new_empty(grad.shape[0], height, width, 9 * grad.shape[3])


def _fake_conv3x3(maps: Sequence[Tensor], weight: Tensor, *rest: Any) -> Tensor:
    images, _, height, width = maps[0].shape
    return maps[0].new_empty(images, height, width, weight.shape[0]).permute(0, 3, 1, 2)


def _save_sizes(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.sizes = [x.shape[1:3] for x in inputs[0]]


def _gradients(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None, None]:
    return [torch.ops.upernet.upsample_taps_gradient(grad, *size) for size in ctx.sizes], None, None


def _save_size(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.size = inputs[0].shape[1:3]


def _gradient_of_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return upsample_taps([grad], *ctx.size), None, None


def _save_one(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.adjoint = inputs[2]


def _gradients_of_one(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    (x, weight), gradients = ctx.saved_tensors, torch.ops.upernet.conv3x3_weight_gradient
    for_x = torch.ops.upernet.conv3x3(grad, weight, not ctx.adjoint) if ctx.needs_input_grad[0] else None
    if not ctx.needs_input_grad[1]:
        return for_x, None, None
    return for_x, gradients(x, grad) if ctx.adjoint else gradients(grad, x), None


def _save_both(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients_of_weight_gradient(ctx: Any, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The weight's gradient is linear in both arguments, as the convolution is in x and the weight."""
    (grad, x), wanted = ctx.saved_tensors, ctx.needs_input_grad
    convolve = torch.ops.upernet.conv3x3
    return convolve(x, weight, False) if wanted[0] else None, convolve(grad, weight, True) if wanted[1] else None


_library = torch.library.Library("upernet", "FRAGMENT")  # not custom_op: see dcnv3
for _schema, _kernel, _fake in (
    ("upsample_taps(Tensor[] products, SymInt height, SymInt width) -> Tensor", _run_taps, _fake_taps),
    (
        "upsample_taps_gradient(Tensor grad, SymInt height, SymInt width) -> Tensor",
        _run_taps_gradient,
        _fake_taps_gradient,
    ),
    ("add_resized(Tensor x, Tensor scale, Tensor shift, Tensor coarse) -> Tensor", _run_add_resized, _fake_add_resized),
    (
        "lateral(Tensor x, Tensor weight, Tensor scale, Tensor shift, Tensor coarse) -> Tensor",
        _run_lateral,
        _fake_lateral,
    ),
    (
        "upsample_conv3x3(Tensor[] maps, Tensor weight, Tensor? scale, Tensor? shift, bool relu, bool winograd)"
        " -> Tensor",
        _run_conv3x3,
        _fake_conv3x3,
    ),
    ("conv3x3(Tensor rows, Tensor weight, bool adjoint) -> Tensor", _run_one, _fake_one),
    ("conv3x3_weight_gradient(Tensor grad, Tensor x) -> Tensor", _run_weight_gradient, _fake_weight_gradient),
):
    _name = _schema.partition("(")[0]
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"upernet::{_name}", _fake, lib=_library)
torch.library.register_autograd("upernet::upsample_taps", _gradients, setup_context=_save_sizes, lib=_library)
torch.library.register_autograd(
    "upernet::upsample_taps_gradient", _gradient_of_gradient, setup_context=_save_size, lib=_library
)
torch.library.register_autograd("upernet::conv3x3", _gradients_of_one, setup_context=_save_one, lib=_library)
torch.library.register_autograd(
    "upernet::conv3x3_weight_gradient", _gradients_of_weight_gradient, setup_context=_save_both, lib=_library
)


@register_flop_formula(torch.ops.upernet.lateral)
def _lateral_flops(x: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(x) * weight[0]


@register_flop_formula(torch.ops.upernet.upsample_conv3x3)
def _flops(maps: list[Any], weight: Any, *args: Any, **kwargs: Any) -> int:
    """As without Winograd; a map coarser than the first at its own resolution, whichever way it goes."""
    images, _, height, width = maps[0]
    pixels = sum(channels * min(h * w, height * width) for _, channels, h, w in maps)
    return 2 * images * 9 * weight[0] * pixels


@register_flop_formula(torch.ops.upernet.conv3x3)
def _flops_of_one(rows: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """As without Winograd, and so for the next."""
    return 2 * math.prod(rows[:3]) * math.prod(weight)


@register_flop_formula(torch.ops.upernet.conv3x3_weight_gradient)
def _weight_gradient_flops(grad: Sequence[int], x: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(grad) * 9 * x[3]
