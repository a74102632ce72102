"""Blocks of InternImage for inference on CPUs: linear layers with packed weights, and their neighbors inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from upernet.models.internimage import DCNv3, can_pack
from upernet.models.internimage_blocks import Block
from upernet.ops.packed.linear import Added, PackedLinear, PackedMlp, PackedNorm, PackedSampling, Products


class PackedBlock(nn.Module):
    """A `Block` with DCNv3 in four steps: values, offsets and masks, sampling, and the multilayer perceptron.

    The depthwise convolution, layer norms, GELUs, the softmax, learned scales and residual sums are parts of the linear
    layers beside them.

    Args:
        block: The block, one that `can_pack` accepts. Weights of linear layers are copied.
        products: Returns what the product of a linear layer computes with.
    """

    def __init__(self, block: Block, products: Callable[[nn.Module], Products]):
        super().__init__()
        self.block = block
        dcn, mlp = cast(DCNv3, block.dcn), block.mlp
        first_norm = None if block.post_norm else _norm_of(block.norm1)
        self.norm = None if first_norm is None else PackedNorm(first_norm)
        self.sample = dcn.sample
        self.values = PackedLinear(dcn.input_proj.weight, dcn.input_proj.bias, products(dcn.input_proj))
        depthwise, query_norm = cast(nn.Conv2d, dcn.dw_conv[0]), cast(nn.Sequential, dcn.dw_conv[1])[1]
        linears = (dcn.offset, dcn.mask, dcn.groups, products(dcn.offset))
        self.offsets_and_masks = PackedSampling(depthwise, cast(nn.LayerNorm, query_norm), *linears)
        self.output = PackedLinear(dcn.output_proj.weight, dcn.output_proj.bias, products(dcn.output_proj))
        first, second = mlp.fc1, mlp.fc2
        self.mlp = PackedMlp(
            *(first.weight, first.bias, second.weight, second.bias),
            (products(first), products(second)),
            None if block.post_norm else _norm_of(block.norm2),
        )
        after = (block.norm1, block.norm2) if block.post_norm else (block.res_post_norm1, block.res_post_norm2)
        self.added = [
            Added(_norm_of(norm), gamma) for norm, gamma in zip(after, (block.gamma1, block.gamma2), strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, N x H x W x C; torch's compiler and exporter get those of `block`."""
        if torch.compiler.is_compiling():
            return self.block(x)
        y = x if self.norm is None else self.norm(x)
        y = self.sample(self.values(y), *self.offsets_and_masks(y))
        x = self.output(y, added=self.added[0].to(x))
        return self.mlp(x, self.added[1].to(x))


def _norm_of(sequence: nn.Module | None) -> nn.LayerNorm | None:
    return None if sequence is None else cast(nn.LayerNorm, cast(nn.Sequential, sequence)[0])


def pack_blocks(network: nn.Module, products: Callable[[nn.Module], Products]) -> None:
    """Replace the blocks of `network` that `PackedBlock` computes, in place.

    Args:
        network: The network, with weights in float32 on a CPU.
        products: Returns what the product of a linear layer computes with.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if can_pack(child):
                setattr(parent, name, PackedBlock(cast(Block, child), products))
