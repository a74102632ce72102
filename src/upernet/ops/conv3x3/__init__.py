"""3x3 convolution over several maps, each resized to the first: the fusion layer of UPerNet, and its other 3x3 layers.

The published way (`reference.py`) resizes all maps, concatenates them and convolves. The fast kernels save
multiplications in two ways:

* A coarse map is convolved at its own resolution (`taps.py`). Per pixel of the fine map and input channel of a map that
  is f times coarser, that takes 9 / f^2 multiplications instead of 9.
* The other maps go through Winograd's transforms (`winograd_cpu.py`): 2.25 multiplications instead of 9, or 1.78 on
  large maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.conv3x3 import matrices, reference
from upernet.ops.conv3x3.kernel_parts import split_kernel
from upernet.ops.conv3x3.reference import apply_epilogue, conv2d, split_weight, sum_of_convolutions
from upernet.ops.conv3x3.taps import coarse_maps, kernel_language, tap_map, upsample_taps
from upernet.ops.conv3x3.winograd import count_tiles, pays_off_in_training, winograd_conv2d
from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.eligibility import is_differentiated, needs_torch, unfit_for_triton, weight_needs_torch
from upernet.ops.registration import define_operator
from upernet.ops.runtime.availability import numba_unavailable, triton_unavailable
from upernet.ops.runtime.bilinear import resize_like

MIN_TILES = 16
"""4 x 4 tiles of a map from which Winograd's transforms pay off. With fewer, reading the transformed weights takes as
long as a direct convolution."""
MIN_CHANNELS = 64
"""Channels of input and output from which they pay off. With fewer, the transforms cost more than they save."""


def upsample_conv3x3(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute `conv2d(cat(maps resized to the first), weight, padding=1) * scale + shift`, rectified if `relu`.

    Resizing is bilinear with pixel centers at half integers (`F.interpolate`, `align_corners=False`). The rounding
    errors of Winograd's transforms are relative to the largest input of a tile of 6 x 6; an infinite input turns the
    tile's outputs into NaN.

    Args:
        maps: N x C_k x h_k x w_k each, of any memory format. A single map makes this a plain convolution.
        weight: D x (C_1 + C_2 + ...) x 3 x 3, of the maps' dtype; or bfloat16 with float32 maps, for bfloat16 products
            that are summed in float32.
        scale, shift: D.
        relu: whether to rectify the result.

    Returns:
        N x D x h_1 x w_1; on a CPU without gradients, channels-last in memory for the kernels `direct` and `winograd`.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(maps, weight, scale, shift)
    choice = choose_upsample_conv3x3(maps, weight, scale, shift)
    kernel = decide("upsample_conv3x3", choice, *maps, weight)
    if kernel == "concat":
        return reference.forward(maps, weight, scale, shift, relu)
    if kernel == "matrices":
        return matrices.forward(maps, weight, scale, shift, relu)
    if kernel == "torch":
        return apply_epilogue(sum_of_convolutions(maps, split_weight(weight, maps)), scale, shift, relu)
    if kernel not in ("direct", "winograd"):
        raise ValueError(
            f"upsample_conv3x3 has no kernel {kernel}: choose from concat, torch, matrices, direct, winograd"
        )
    on_gpu = kernel == "direct" and kernel_language(maps[0]) == "triton"
    if on_gpu or is_differentiated(*maps, weight, scale, shift):
        return apply_epilogue(_with_gradients(maps, weight, kernel == "winograd"), scale, shift, relu)
    return torch.ops.upernet.upsample_conv3x3(list(maps), weight, scale, shift, relu, kernel == "winograd")


def choose_upsample_conv3x3(maps: Sequence[Tensor], weight: Tensor, *others: Tensor | None) -> Choice:
    """Choose the kernel of `upsample_conv3x3` for these arguments.

    - `concat` is the published way: resize, concatenate, convolve.
    - `torch` convolves each map by itself and adds the results, without the large concatenation.
    - `direct` does the same for maps as large as the first, and convolves coarser maps at their own resolution, with a
      Numba kernel on CPUs and a Triton kernel on GPUs (`use_kernel(upsample_taps="triton")` overrides that).
    - `matrices` does so in operations that every runtime has; `use_kernel` chooses it for networks that are exported.
    - `winograd` sends the first map through Winograd's transforms, and with it the others whose own resolution would
      not take fewer multiplications. With gradients, it is `direct` with Winograd's transforms in place of `conv2d`.
    """
    first = maps[0]
    if kernel := override("upsample_conv3x3"):
        return Choice(kernel, OVERRIDDEN)
    has_coarse = bool(coarse_maps(maps, winograd=False))
    if first.device.type == "cuda":
        if reason := triton_unavailable() or unfit_for_triton(*maps, weight):
            return Choice("torch", reason)
        return Choice("direct", "coarse maps") if has_coarse else Choice("torch", "no map is coarser than the first")
    if reason := needs_torch(*maps) or weight_needs_torch(weight, first):
        return Choice("torch", reason)
    if is_differentiated(*maps, weight, *others):
        if pays_off_in_training(first, weight) and not numba_unavailable("conv3x3.winograd_training_cpu"):
            return Choice("winograd", "with gradients, many channels and tiles")
        wanted = Choice("direct" if has_coarse else "torch", "with gradients")
    elif count_tiles(first) >= MIN_TILES and min(weight.shape[0], first.shape[1]) >= MIN_CHANNELS:
        wanted = Choice("winograd", f"at least {MIN_CHANNELS} channels and {MIN_TILES} tiles")
    else:
        wanted = Choice("direct" if has_coarse else "torch", "too small for Winograd's transforms")
    if wanted.kernel != "torch" and not torch.compiler.is_compiling() and (reason := numba_unavailable("conv3x3.cpu")):
        return Choice("torch", reason)
    return wanted


def _with_gradients(maps: Sequence[Tensor], weight: Tensor, winograd: bool) -> Tensor:
    weight, first = weight.to(maps[0].dtype), maps[0]
    if len(maps) == 1:
        return winograd_conv2d(first, weight) if winograd else conv2d(first, weight)
    coarse = coarse_maps(maps, winograd=False)
    parts = split_kernel(weight, [x.shape[1] for x in maps], coarse)
    taps = [tap_map(maps[k], parts[k]) for k in coarse]
    out = winograd_conv2d(first, parts[0], taps) if winograd else conv2d(first, parts[0])
    for k in range(1, len(maps)):
        if k not in coarse:
            x = resize_like(maps[k], first)
            out += winograd_conv2d(x, parts[k]) if winograd else conv2d(x, parts[k])
    return out if winograd or not taps else out + upsample_taps(taps, *first.shape[2:]).permute(0, 3, 1, 2)


def _check(maps: Sequence[Tensor], weight: Tensor, *per_channel: Tensor | None) -> None:
    """Check all shapes; the kernels do no bounds checks."""
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


def _run(
    maps: Sequence[Tensor], weight: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool, winograd: bool
) -> Tensor:
    from upernet.ops.conv3x3 import cpu

    _check(maps, weight, scale, shift)
    if reason := needs_torch(*maps) or weight_needs_torch(weight, maps[0]):
        raise ValueError(f"upsample_conv3x3: {reason}")
    return cpu.forward(maps, weight, scale, shift, relu, winograd)


def _fake(maps: Sequence[Tensor], weight: Tensor, *rest: Any) -> Tensor:
    images, _, height, width = maps[0].shape
    return maps[0].new_empty(images, height, width, weight.shape[0]).permute(0, 3, 1, 2)


def _flops(maps: list[Any], weight: Any, *args: Any, **kwargs: Any) -> int:
    """Count direct convolutions: a map that is coarser than the first at its own resolution, whichever way it goes."""
    images, _, height, width = maps[0]
    pixels = sum(channels * min(h * w, height * width) for _, channels, h, w in maps)
    return 2 * images * 9 * weight[0] * pixels


define_operator(
    "upsample_conv3x3(Tensor[] maps, Tensor weight, Tensor? scale, Tensor? shift, bool relu, bool winograd) -> Tensor",
    _run,
    _fake,
    flops=_flops,
)
