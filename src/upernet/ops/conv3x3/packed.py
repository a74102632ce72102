"""3x3 convolution over several maps with a weight that was packed once, for inference on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.dispatch import Choice, decide
from upernet.ops.eligibility import unfit_for_numba
from upernet.ops.registration import define_operator


def packed_conv3x3(maps: Sequence[Tensor], panels: Tensor, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
    """Compute `upsample_conv3x3` without gradients, by the kernel `winograd`, however small the maps are.

    Args:
        maps: N x C_k x h_k x w_k each, float32, all C_k multiples of 16.
        panels: The weight D x (C_1 + C_2 + ...) x 3 x 3 in panels (`TapPanels`), packed on this kind of processor; D is
            a multiple of 16.
        scale, shift: D.
        relu: Whether to rectify the result.

    Returns:
        N x D x h_1 x w_1, channels-last in memory.

    Raises:
        ValueError: The maps do not fit the weight, or the weight does not fit the processor.
    """
    return torch.ops.upernet.packed_conv3x3([x.detach() for x in maps], panels, scale, shift, relu)


def _run(maps: Sequence[Tensor], panels: Tensor, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
    from upernet.ops.conv3x3.cpu import convolve_packed
    from upernet.ops.conv3x3.winograd_weights_cpu import TapPanels
    from upernet.ops.runtime.matmul import PANEL

    if reason := unfit_for_numba(*maps):
        raise ValueError(f"packed_conv3x3: {reason}")
    channels = panels.shape[2]
    if maps[0].dtype != panels.dtype or sum(x.shape[1] for x in maps) != channels:
        raise ValueError(f"packed_conv3x3: the maps do not have {channels} channels of {panels.dtype}")
    if panels.shape[3] != PANEL:
        raise ValueError("weights were packed for another kind of processor: prepare the network on this one")
    decide("upsample_conv3x3", Choice("packed", "the weight was packed when the network was prepared"), *maps)
    return convolve_packed(maps, TapPanels(panels, scale.shape[0], [range(channels)]), scale, shift, relu)


def _fake(maps: Sequence[Tensor], panels: Tensor, scale: Tensor, *rest: Any) -> Tensor:
    images, _, height, width = maps[0].shape
    return maps[0].new_empty(images, height, width, scale.shape[0]).permute(0, 3, 1, 2)


define_operator(
    "packed_conv3x3(Tensor[] maps, Tensor panels, Tensor scale, Tensor shift, bool relu) -> Tensor", _run, _fake
)
