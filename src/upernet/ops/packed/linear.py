"""Linear layers whose weights are packed once, for inference on CPUs."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.dispatch import Choice, decide
from upernet.ops.packed import linear_cpu
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

    Attributes:
        tensors: Panels and base of the packed weight (see `PackedMatmul`), and factors and bias of the sums.
        rounding: What inputs are multiplied by before they are rounded to the dtype of the product, and what is added.
    """

    dtype = torch.float32
    """Dtype of the rows that a call takes."""

    def __init__(self, weight: Tensor, bias: Tensor | None, products: Products):
        self.outputs, self.inputs = weight.shape
        weight, extra = weight.detach(), -self.outputs % PANEL
        bias = weight.new_zeros(self.outputs) if bias is None else bias.detach()
        bias = F.pad(bias.float(), (0, extra))
        if isinstance(products, torch.dtype):
            matmul, factors = PackedMatmul(weight.to(products)[None]), torch.ones_like(bias)
            self.rounding = (1.0, 0.0)
        else:
            rounded, steps = round_weight(F.pad(weight.float(), (0, -self.inputs % 4)))
            matmul = PackedMatmul(rounded[None], -products.zero * rounded.sum(1, dtype=torch.int32)[None])
            factors = F.pad(steps[:, 0] * products.step, (0, extra))
            self.rounding = (1 / products.step, float(products.zero))
        self.tensors = (matmul.panels, matmul.base[0], factors, bias)

    @functools.cached_property
    def layer(self) -> linear_cpu.Layer:
        """The layer as the kernels take it."""
        return linear_cpu.layer(self.tensors, self.rounding)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the linear map of `x`, or write it to `out`, which is contiguous."""
        decide("linear", packed(self.tensors[0]), x)
        if out is None:
            out = empty(*x.shape[:-1], self.outputs, dtype=x.dtype)
        linear_cpu.linear(as_rows(x), self.layer, as_rows(out))
        return out


class PackedMlp:
    """Two linear layers with a GELU in between, ... x C -> ... x D.

    Args:
        weight1, bias1: H x C, H a multiple of 16, and H.
        weight2, bias2: D x H, and D.
        products: What the products compute with: those of `weight1`, and those of `weight2`.
    """

    def __init__(
        self,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor | None,
        products: tuple[Products, Products],
    ):
        self.first, self.second = PackedLinear(weight1, bias1, products[0]), PackedLinear(weight2, bias2, products[1])

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output of the second layer."""
        decide("mlp", packed(self.first.tensors[0]), x)
        out = empty(*x.shape[:-1], self.second.outputs, dtype=x.dtype)
        linear_cpu.mlp(as_rows(x), self.first.layer, self.second.layer, as_rows(out))
        return out


def packed(panels: Tensor) -> Choice:
    """Return the choice that is recorded for a layer with this packed weight."""
    numbers = str(panels.dtype).removeprefix("torch.")
    return Choice("packed", f"{numbers} weights were packed when the network was prepared")


def as_rows(x: Tensor) -> Tensor:
    """Return x ... x C as contiguous rows R x C, without gradients."""
    return x.detach().reshape(-1, x.shape[-1]).contiguous()


def round_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return ... x D x K as int8, and the step of each output, ... x D x 1."""
    steps = weight.abs().amax(-1, keepdim=True) / MAX_INT8
    steps = torch.where(steps > 0, steps, 1.0)
    return (weight / steps).round().to(torch.int8), steps
