"""Winograd's convolution in training on a CPU: with a weight that changes at every step, and with gradients.

The convolution is linear in the map and in the weight. The gradient of the map is another such convolution, of the
result's gradient, with the weight rotated by 180 degrees and its inputs and outputs exchanged. The gradient of the
weight uses the adjoints of the transforms: the gradient of U[g], the weight of product g of each tile, is the sum over
tiles of its factor times the gradient of the product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.ops.conv3x3.cpu import convolve
from upernet.ops.conv3x3.winograd_tiles_cpu import gradient_transform, input_transform
from upernet.ops.conv3x3.winograd_weights_cpu import kernel_gradient, tap_panels
from upernet.ops.runtime.matmul import PANEL, transposed_matmul
from upernet.ops.runtime.memory import ScratchBuffer
from upernet.ops.runtime.simd import LANES

GRADIENT_TILES = 512
"""Tiles that are multiplied at a time. With fewer, adding to the sums, 36 per pair of channels, takes longer."""

_sums = ScratchBuffer()
_inputs = ScratchBuffer()
_products = ScratchBuffer()


def convolution(x: Tensor, weight: Tensor, adjoint: bool, out: Tensor | None = None) -> Tensor:
    """Convolve x N x H x W x C, contiguous, with weight D x C x 3 x 3: the result is N x H x W x D.

    With `adjoint`, the gradient of the result, N x H x W x D, becomes that of x, N x H x W x C. With `out`, the result
    is added to it.
    """
    taps = tap_panels(weight, adjoint=adjoint)
    one = x.new_ones(taps.outputs)
    return convolve([x], taps, [], [], one, 0 * one, False, out)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the weight, D x C x 3 x 3, from that of the result N x H x W x D and x N x H x W x C."""
    images, height, width, outputs = grad.shape
    channels = x.shape[3]
    padded = -(-channels // PANEL) * PANEL
    rows, columns = -(-height // 4), -(-width // 4)
    blocks = -(-images * rows // max(1, GRADIENT_TILES // columns))
    block = -(-images * rows // blocks)
    sums = _sums((36, outputs, padded), x.dtype)
    for first in range(0, images * rows, block):
        count = min(block, images * rows - first)
        inputs = _inputs((36, count * columns, padded), x.dtype)
        products = _products((36, count * columns, outputs), x.dtype)
        done = 0
        while done < count:  # the part of each image that lies in the block
            image, row = divmod(first + done, rows)
            rows_here = min(rows - row, count - done)
            tiles = slice(done * columns, (done + rows_here) * columns)
            input_transform(x[image], 4 * row, inputs[:, tiles].transpose(0, 1), 0)
            gradient_transform(grad[image], 4 * row, products[:, tiles].transpose(0, 1))
            done += rows_here
        transposed_matmul(products, inputs, sums, accumulate=first > 0)
    out = x.new_empty(outputs, channels, 3, 3)
    kernel_gradient(sums, out)
    return out


def warm_up() -> None:
    """Compile the kernels, or load them from Numba's cache, and run them on one pixel."""
    x, weight = torch.zeros(1, 1, 1, LANES, dtype=torch.float32), torch.zeros(LANES, LANES, 3, 3, dtype=torch.float32)
    weight_gradient(convolution(x, weight, adjoint=False), x)
