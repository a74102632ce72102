"""DCNv4: DCNv3 without the softmax, with offsets and masks in one tensor (arXiv 2401.06197, section 3.1).

It is a composition: the kernels of `upernet.ops.dcnv3` read offsets and masks where they lie, and
`use_kernel(dcnv3=...)` chooses among them. Gradients, export and FLOPs are those of that operator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.ops.dcnv3 import check_inputs
from upernet.ops.dcnv3.geometry import Geometry


def dcnv4(
    x: Tensor,
    offset_mask: Tensor,
    kernel_size: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """Sum P points per output pixel: masks, which may be any numbers, times `x`, sampled at each point plus its offset.

    `upernet.ops.dcnv3` describes the points, the samples and the precision.

    Args:
        x: N x H x W x C. Group g consists of the channels g C/G to (g + 1) C/G.
        offset_mask: N x h x w x K with K of at least 3 G P: for each group P offsets (dx, dy) in pixels of `x`, then P
            masks. The points are in x-major order. Numbers after those of the last group are not used: the published
            layers round K up to a multiple of 8.
        kernel_size, stride, padding, dilation: (vertical, horizontal).
        groups: number of groups G.
        offset_scale: factor of the kernel's grid and of the offsets.
        remove_center: leave out the central point.

    Returns:
        N x h x w x C in the dtype of `x`, with h = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1.

    Raises:
        ValueError: the shapes do not fit together.
    """
    s = Geometry(kernel_size, stride, padding, dilation, groups, float(offset_scale), remove_center)
    rows = check_inputs("dcnv4", s, x, offset_mask=offset_mask)
    points = len(s.displacements)
    used = 3 * groups * points
    if offset_mask.shape[:3] != rows or offset_mask.shape[3] < used:
        raise ValueError(
            f"dcnv4: offset_mask must have shape {rows} and {used} or more channels, not {tuple(offset_mask.shape)}"
        )
    offset, mask = offset_mask[..., :used].unflatten(-1, (groups, 3 * points)).split([2 * points, points], dim=-1)
    return torch.ops.upernet.dcnv3(x, offset, mask, *s)
