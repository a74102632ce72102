"""Blocks of InternImage for inference on CPUs: linear layers with packed weights, and their neighbors inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from upernet.models.internimage import DCNv3, can_pack
from upernet.models.internimage_blocks import Block
from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.packed.block import Branch, PackedInternImageBlock
from upernet.ops.packed.linear import PackedLinear, PackedMlp, Products


class PackedBlock(nn.Module):
    """A `Block` with DCNv3, computed by `PackedInternImageBlock`.

    Args:
        block: The block, one that `can_pack` accepts. Weights of linear layers are copied.
        products: Returns what the product of a linear layer computes with.
    """

    def __init__(self, block: Block, products: Callable[[nn.Module], Products]):
        super().__init__()
        self.block = block
        dcn, first, second = cast(DCNv3, block.dcn), block.mlp.fc1, block.mlp.fc2
        sampling = torch.cat((dcn.offset.weight, dcn.mask.weight)), torch.cat((dcn.offset.bias, dcn.mask.bias))
        size, around = dcn.kernel_size, dcn.kernel_size // 2
        post = block.post_norm
        self.packed = PackedInternImageBlock(
            PackedLinear(dcn.input_proj.weight, dcn.input_proj.bias, products(dcn.input_proj)),
            cast(nn.Conv2d, dcn.dw_conv[0]),
            cast(nn.LayerNorm, cast(nn.Sequential, dcn.dw_conv[1])[1]),
            PackedLinear(*sampling, products(dcn.offset)),
            PackedLinear(dcn.output_proj.weight, dcn.output_proj.bias, products(dcn.output_proj)),
            Geometry((size, size), (1, 1), (around, around), (1, 1), dcn.groups, dcn.offset_scale, False),
            PackedMlp(first.weight, first.bias, second.weight, second.bias, (products(first), products(second))),
            (
                _branch(block.norm1, block.res_post_norm1, block.gamma1, post),
                _branch(block.norm2, block.res_post_norm2, block.gamma2, post),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, N x H x W x C; torch's compiler and exporter get those of `block`."""
        return self.block(x) if torch.compiler.is_compiling() else self.packed(x)


def _branch(norm: nn.Module, after: nn.Module | None, gamma: Tensor | None, post_norm: bool) -> Branch:
    """Return what `Block` has around its layers; it leaves `after` out beside a norm after the branch, or `gamma`."""
    if post_norm:
        return Branch(None, _norm_of(norm), gamma)
    return Branch(_norm_of(norm), None if gamma is not None else _norm_of(after), gamma)


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
