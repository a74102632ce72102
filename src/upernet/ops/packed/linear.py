"""Linear layers whose weights are packed once, with the layer norms and sums around them, for inference on CPUs."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upernet.ops.dispatch import Choice, decide
from upernet.ops.packed import linear_cpu
from upernet.ops.packed.linear_cpu import NO_NORM, Norm
from upernet.ops.packed.ranges import Range
from upernet.ops.runtime.matmul import MAX_INT8, PANEL, PackedMatmul
from upernet.ops.runtime.memory import empty

Products = torch.dtype | Range
"""What a product computes with: `torch.float32`, `torch.bfloat16` or, for int8, the range of the layer's inputs."""


class PackedLinear:
    """A linear layer, ... x C -> ... x D.

    Args:
        weight: D x C, float32.
        bias: D.
        products: What the product computes with. For bfloat16, C must be even.
        norm: A layer norm of the inputs, with C a multiple of 16.
    """

    dtype = torch.float32
    """Dtype of the rows that a call takes."""

    def __init__(self, weight: Tensor, bias: Tensor | None, products: Products, norm: nn.LayerNorm | None = None):
        self.outputs, self.inputs = weight.shape
        weight, extra = weight.detach(), -self.outputs % PANEL
        bias = weight.new_zeros(self.outputs) if bias is None else bias.detach()
        self.bias, self.norm = F.pad(bias.float(), (0, extra)), _norm(norm)
        if isinstance(products, torch.dtype):
            self.matmul = PackedMatmul(weight.to(products)[None])
            self.matmul.factors = self.bias.new_ones(self.outputs + extra)
            self.layer = linear_cpu.layer(self.matmul, self.bias)
        else:
            rounded, steps = round_weight(F.pad(weight.float(), (0, -self.inputs % 4)))
            self.matmul = PackedMatmul(rounded[None], -products.zero * rounded.sum(1, dtype=torch.int32)[None])
            self.matmul.factors = F.pad(steps[:, 0] * products.step, (0, extra))
            self.layer = linear_cpu.layer(self.matmul, self.bias, 1 / products.step, products.zero)

    def __call__(self, x: Tensor, out: Tensor | None = None, added: Added | None = None) -> Tensor:
        """Return the linear map of `x`, or write it to `out`, which is contiguous; `added` follows."""
        decide("linear", _choice(self.matmul), x)
        if out is None:
            out = empty(*x.shape[:-1], self.outputs, dtype=x.dtype)
        rows, after = _rows(x), added or Added()
        linear_cpu.linear(rows, self.layer, _rows(out), (self.norm, after.norm), after.factors, after.others)
        return out


class PackedMlp:
    """Two linear layers with a GELU in between, ... x C -> ... x D.

    Args:
        weight1, bias1: H x C, H a multiple of 16, and H.
        weight2, bias2: D x H, and D.
        products: What the products compute with: those of `weight1`, and those of `weight2`.
        norm: A layer norm of the inputs, with C a multiple of 16.
    """

    def __init__(
        self,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor | None,
        products: tuple[Products, Products],
        norm: nn.LayerNorm | None = None,
    ):
        self.first = PackedLinear(weight1, bias1, products[0], norm)
        self.second = PackedLinear(weight2, bias2, products[1])

    def __call__(self, x: Tensor, added: Added | None = None) -> Tensor:
        """Return the output of the second layer; `added` follows."""
        decide("mlp", _choice(self.first.matmul), x)
        out = empty(*x.shape[:-1], self.second.outputs, dtype=x.dtype)
        after = added or Added()
        norms = (self.first.norm, after.norm)
        linear_cpu.mlp(_rows(x), self.first.layer, self.second.layer, _rows(out), norms, after.factors, after.others)
        return out


class Added:
    """What follows a layer: a layer norm and factors of its result, which is then added to other rows.

    Args:
        norm: The layer norm, of D, a multiple of 16.
        factors: D.
    """

    def __init__(self, norm: nn.LayerNorm | None = None, factors: Tensor | None = None):
        self.norm = _norm(norm)
        self.factors = None if factors is None else factors.detach().float().numpy()
        self.others: Tensor | None = None

    def to(self, others: Tensor) -> Added:
        """Return the same for `others`, ... x D."""
        added = copy.copy(self)
        added.others = _rows(others)
        return added


class PackedSampling:
    """Offsets and masks of DCNv3 (InternImage, section 3.1), from a depthwise convolution to the softmax of the masks.

    Args:
        depthwise: A depthwise convolution of C channels, a multiple of 16, with an odd kernel that keeps the size.
        norm: The layer norm after it, which a GELU follows.
        offset: The linear layer C -> 2 G P.
        mask: The linear layer C -> G P, which a softmax over the P points of each group follows.
        groups: G.
        products: What the product of the linear layers computes with.
    """

    def __init__(
        self,
        depthwise: nn.Conv2d,
        norm: nn.LayerNorm,
        offset: nn.Linear,
        mask: nn.Linear,
        groups: int,
        products: Products,
    ):
        weight, bias = torch.cat((offset.weight, mask.weight)), torch.cat((offset.bias, mask.bias))
        self.linear, self.groups, self.numbers = PackedLinear(weight, bias, products, norm), groups, mask.out_features
        taps = depthwise.weight.detach().flatten(1).T.contiguous()
        assert depthwise.bias is not None
        self.kernel = taps.numpy().reshape(-1), depthwise.bias.detach().numpy(), depthwise.kernel_size[0]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return N x H x W x (2 G P) and N x H x W x (G P) for x N x H x W x C."""
        decide("linear", _choice(self.linear.matmul), x)
        offsets = empty(*x.shape[:-1], 2 * self.numbers, dtype=x.dtype)
        masks = empty(*x.shape[:-1], self.numbers, dtype=x.dtype)
        layer, norm = self.linear.layer, self.linear.norm
        linear_cpu.sampling(x.contiguous(), self.kernel, norm, layer, _rows(offsets), _rows(masks), self.groups)
        return offsets, masks


class PackedNorm:
    """A layer norm of ... x C, C a multiple of 16, whose result's memory is reused."""

    def __init__(self, norm: nn.LayerNorm):
        self.norm = _norm(norm)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalized rows."""
        out = empty(*x.shape, dtype=x.dtype)
        linear_cpu.layer_norm(_rows(x), self.norm, _rows(out))
        return out


def _choice(matmul: PackedMatmul) -> Choice:
    numbers = str(matmul.panels.dtype).removeprefix("torch.")
    return Choice("packed", f"{numbers} weights were packed when the network was prepared")


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


def _norm(norm: nn.LayerNorm | None) -> Norm:
    if norm is None:
        return NO_NORM
    return norm.weight.detach().numpy(), norm.bias.detach().numpy(), np.float32(norm.eps)


def round_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return ... x D x K as int8, and the step of each output, ... x D x 1."""
    steps = weight.abs().amax(-1, keepdim=True) / MAX_INT8
    steps = torch.where(steps > 0, steps, 1.0)
    return (weight / steps).round().to(torch.int8), steps
