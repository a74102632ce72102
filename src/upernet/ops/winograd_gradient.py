"""The convolution of `winograd` in training: with a weight that changes every time, and its gradients.

It is linear in the map and in the weight. The gradient of the map is the same convolution of the result's gradient,
with the weight turned by half a turn and its inputs and outputs exchanged. That of the weight is computed by the
adjoints of the transforms: of the 36 products per tile with weights U[g], the gradients of U[g] are sums over tiles of
what was multiplied with it times the gradient of the product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.ops.lanes import LANES
from upernet.ops.products_numba import PANEL, Products, transposed_product
from upernet.ops.scratch import scratch
from upernet.ops.winograd import convolve
from upernet.ops.winograd_numba import gradient_transform, input_transform
from upernet.ops.winograd_weights_numba import kernel_gradient, kernel_transform

GRADIENT_TILES = 512
"""Tiles that are multiplied at a time. Fewer, and adding to the sums, 36 for each pair of channels, takes longer."""


def convolution(x: Tensor, weight: Tensor, adjoint: bool) -> Tensor:
    """N x H x W x C, contiguous, with a weight D x C x 3 x 3 -> N x H x W x D.

    With `adjoint`, N x H x W x D -> N x H x W x C: from gradients of the result to those of x.
    """
    outputs, depth = weight.shape[:2][:: -1 if adjoint else 1]
    panels = scratch("panels", (36, -(-outputs // PANEL), depth, PANEL, 1), x.dtype)
    kernel_transform(weight, adjoint, panels[..., 0], 0)
    one = x.new_ones(outputs)
    return convolve([x], Products.of_panels(panels, outputs), [], [], one, 0 * one, False)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Of the result N x H x W x D, x N x H x W x C, both contiguous -> D x C x 3 x 3."""
    images, height, width, outputs = grad.shape
    channels = x.shape[3]
    padded = -(-channels // PANEL) * PANEL
    rows, columns = -(-height // 4), -(-width // 4)
    blocks = -(-images * rows // max(1, GRADIENT_TILES // columns))
    block = -(-images * rows // blocks)
    sums = scratch("panels", (36, outputs, padded), x.dtype)
    for first in range(0, images * rows, block):
        count = min(block, images * rows - first)
        inputs = scratch("tiles", (36, count * columns, padded), x.dtype)
        products = scratch("products", (36, count * columns, outputs), x.dtype)
        done = 0
        while done < count:  # the part of each image that lies in the block
            image, row = divmod(first + done, rows)
            some = min(rows - row, count - done)
            tiles = slice(done * columns, (done + some) * columns)
            input_transform(x[image], 4 * row, inputs[:, tiles].transpose(0, 1), 0)
            gradient_transform(grad[image], 4 * row, products[:, tiles].transpose(0, 1))
            done += some
        transposed_product(products, inputs, sums, onto=first > 0)
    out = x.new_empty(outputs, channels, 3, 3)
    kernel_gradient(sums, out)
    return out


def try_one_pixel() -> None:
    """Compile, or load, the kernels, and run them."""
    x, weight = torch.zeros(1, 1, 1, LANES, dtype=torch.float32), torch.zeros(LANES, LANES, 3, 3, dtype=torch.float32)
    weight_gradient(convolution(x, weight, adjoint=False), x)
