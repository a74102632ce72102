"""DCNv4 in plain loops, written from arXiv 2401.06197 (section 3.1) and 2211.05778 (equation 2), without upernet.

For every output pixel and group: y(p0) = sum over k of m_k x(p0 + s (p_k + dp_k)). `x` is interpolated bilinearly
between its pixels and zero outside of them; the masks m_k are taken as they are. The numbers of a group lie next to
each other: dx and dy of every point, then every mask. The points go down the columns of the kernel, from left to right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plain_dcnv4(
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
    """Return N x h x w x C, of N x H x W x C and N x h x w x (3 G P or more); autograd differentiates it."""
    points = [(i, j) for j in range(kernel_size[1]) for i in range(kernel_size[0])]
    if remove_center:
        points.remove((kernel_size[0] // 2, kernel_size[1] // 2))
    count, width = len(points), x.shape[3] // groups
    out: list[Tensor] = []
    for n in range(x.shape[0]):
        for row in range(offset_mask.shape[1]):
            for column in range(offset_mask.shape[2]):
                for group in range(groups):
                    numbers = offset_mask[n, row, column, 3 * count * group : 3 * count * (group + 1)]
                    values = x[n, :, :, group * width : (group + 1) * width]
                    total = torch.zeros_like(values[0, 0])
                    for k, point in enumerate(points):
                        place: list[Tensor] = []
                        for axis, at, delta in ((0, row, numbers[2 * k + 1]), (1, column, numbers[2 * k])):
                            middle = dilation[axis] * (kernel_size[axis] - 1) // 2
                            start = at * stride[axis] - padding[axis] + middle
                            place.append(start + offset_scale * (point[axis] * dilation[axis] - middle + delta))
                        total = total + numbers[2 * count + k] * bilinear(values, *place)
                    out.append(total)
    return torch.stack(out).reshape(*offset_mask.shape[:3], x.shape[3])


def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the C values at a place between the pixels of H x W x C."""
    total = torch.zeros_like(values[0, 0])
    top, left = math.floor(y.detach()), math.floor(x.detach())
    for near_y in (top, top + 1):
        for near_x in (left, left + 1):
            if 0 <= near_y < values.shape[0] and 0 <= near_x < values.shape[1]:
                weight = (1 - (y - near_y).abs()) * (1 - (x - near_x).abs())
                total = total + weight * values[near_y, near_x]
    return total
