"""Precise RoI pooling (PrRoIPool, arXiv 1807.11590, equation 2) of whole maps, as two matrix products."""

from __future__ import annotations

import torch
from torch import Tensor


def precise_pool(maps: Tensor, bins: int) -> Tensor:
    """Return the means over `bins` x `bins` equal parts of maps: N x C x H x W -> N x C x bins x bins.

    The means are integrals of the bilinear interpolation of the map, so a bin may end inside a pixel. As in the
    published operator, pixel i lies at coordinate i, and the interpolation falls linearly to 0 one pixel outside the
    map. So these are not the means of `adaptive_avg_pool2d`, not even for maps that the bins divide evenly.
    """
    rows, columns = (bin_weights(size, bins, maps) for size in maps.shape[-2:])
    return rows @ maps @ columns.mT


def bin_weights(length: int, bins: int, like: Tensor) -> Tensor:
    """Return the weight of each of `length` pixels in the mean of each bin along one axis: bins x length.

    Pixel i contributes the integral of its triangle max(0, 1 - |x - i|) over the bin, divided by the length of the bin.
    The result has the dtype and the device of `like`. Distances are computed in whole numbers of 1 / `bins` pixels, so
    that float32 rounds them once.
    """
    edges = torch.arange(bins + 1, device=like.device) * length
    distances = (edges[:, None] - torch.arange(length, device=like.device) * bins).clamp(-bins, bins)
    offset = distances.to(like.dtype) / bins
    integral = 0.5 + offset - 0.5 * offset * offset.abs()  # of the triangle, from its left end
    return (integral[1:] - integral[:-1]) * bins / length
