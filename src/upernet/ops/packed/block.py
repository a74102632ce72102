"""The blocks of InternImage (arXiv 2211.05778, section 3.2) with packed weights, for inference on CPUs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from upernet.ops.dcnv3.cpu import grid
from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.dispatch import decide
from upernet.ops.packed import block_cpu, linear_cpu
from upernet.ops.packed.linear import PackedLinear, PackedMlp, as_rows, packed
from upernet.ops.packed.linear_cpu import NO_NORM, NOTHING, Norm
from upernet.ops.runtime.memory import empty


@dataclass(frozen=True)
class Branch:
    """A residual branch without its layers: y = x + factors * after(layers(before(x)))."""

    before: nn.LayerNorm | None = None
    after: nn.LayerNorm | None = None
    factors: Tensor | None = None
    """C."""


class PackedInternImageBlock:
    """A block with DCNv3 and a multilayer perceptron, N x H x W x C -> the same shape, C a multiple of 16.

    A thread takes 64 pixels from the depthwise convolution to the end of the block, and nothing in between leaves its
    cache.

    Args:
        values: The linear layer before DCNv3.
        depthwise: The depthwise convolution of offsets and masks, with an odd kernel that keeps the size.
        query_norm: The layer norm after it, which a GELU follows.
        sampling: The linear layer from that to offsets and masks, C -> 3 G P; a softmax over the P points of each group
            follows for the masks.
        output: The linear layer after DCNv3.
        geometry: The geometry of DCNv3, which keeps the size.
        mlp: The multilayer perceptron.
        branches: What surrounds DCNv3, and the multilayer perceptron.
    """

    def __init__(
        self,
        values: PackedLinear,
        depthwise: nn.Conv2d,
        query_norm: nn.LayerNorm,
        sampling: PackedLinear,
        output: PackedLinear,
        geometry: Geometry,
        mlp: PackedMlp,
        branches: tuple[Branch, Branch],
    ):
        self.values, self.geometry = values, geometry
        self.norm = _norm(branches[0].before)
        assert depthwise.bias is not None
        taps = depthwise.weight.detach().flatten(1).T.reshape(-1).numpy()
        kernel = taps, depthwise.bias.detach().numpy(), depthwise.kernel_size[0]
        self.query = kernel, _norm(query_norm), sampling.layer
        self.output = output.layer, _norm(branches[0].after), _factors(branches[0])
        norms = _norm(branches[1].before), _norm(branches[1].after)
        self.mlp = mlp.first.layer, mlp.second.layer, *norms, _factors(branches[1])

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, float32."""
        choice, s = packed(self.values.matmul), self.geometry
        for operator in ("linear", "dcnv3", "mlp"):
            decide(operator, choice, x)
        x = x.detach().contiguous()
        has_norm = self.norm[0].size > 0
        y = empty(*x.shape, dtype=x.dtype) if has_norm else x
        values, out = empty(*x.shape, dtype=x.dtype), empty(*x.shape, dtype=x.dtype)
        kept = as_rows(y) if has_norm else None
        linear_cpu.linear(as_rows(x), self.values.layer, as_rows(values), self.norm, kept)
        places = grid(s, s.groups, x.shape[2], np.dtype(np.float32))
        sampled = s.groups, len(s.displacements), s.offset_scale, *places
        block_cpu.block((x, y, values), out, sampled, self.query, self.output, self.mlp)
        return out


def _norm(norm: nn.LayerNorm | None) -> Norm:
    if norm is None:
        return NO_NORM
    return norm.weight.detach().numpy(), norm.bias.detach().numpy(), np.float32(norm.eps)


def _factors(branch: Branch) -> np.ndarray:
    return NOTHING if branch.factors is None else branch.factors.detach().to(torch.float32).numpy()
