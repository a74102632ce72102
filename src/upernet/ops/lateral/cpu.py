"""Lateral connections on a CPU with Numba: from the product to the sum, a few rows at a time stay in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.ops.eligibility import LANES
from upernet.ops.runtime.bilinear_cpu import add_upsampled
from upernet.ops.runtime.matmul import PackedMatmul, RowProduct
from upernet.ops.runtime.memory import ScratchBuffer, empty

PIXELS_PER_STEP = 1024
"""Pixels that are multiplied before the coarser map is added: 2 MiB with 512 channels."""

_products = ScratchBuffer()


def forward(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """Compute `upernet.ops.lateral` without gradients."""
    return add_to_coarse(PackedMatmul(weight.detach().flatten(1)[None]), x, scale, shift, coarse)


def add_to_coarse(matmul: RowProduct, x: Tensor, scale: Tensor, shift: Tensor, coarse: Tensor) -> Tensor:
    """Compute `upernet.ops.lateral` with a packed weight."""
    x, coarse = (each.detach().permute(0, 2, 3, 1).contiguous() for each in (x, coarse))
    scale, shift = (each.detach().to(x).contiguous() for each in (scale, shift))
    images, height, width, _ = x.shape
    out = empty(images, height, width, matmul.outputs, dtype=x.dtype)
    rows = max(1, PIXELS_PER_STEP // width)
    for image in range(images):
        for top in range(0, height, rows):
            part = out[image, top : top + rows]
            products = _products(tuple(part.shape), x.dtype)
            pixels = x[image, top : top + rows].flatten(0, 1)[:, None]
            matmul(pixels.to(matmul.dtype), products.flatten(0, 1)[:, None])
            add_upsampled(products, scale, shift, coarse[image], height, top, part)
    return out.permute(0, 3, 1, 2)


def warm_up() -> None:
    """Compile the kernels, or load them from Numba's cache, and run them on four pixels."""
    x, coarse = torch.zeros(1, LANES, 2, 2, dtype=torch.float32), torch.zeros(1, LANES, 1, 1, dtype=torch.float32)
    zero = torch.zeros(LANES, dtype=torch.float32)
    forward(x, torch.zeros(LANES, LANES, 1, 1, dtype=torch.float32), zero, zero, coarse)
