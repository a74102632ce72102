"""Blocks of InternImage for inference on CPUs: packed weights in place of the modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from upernet.models.internimage import DCNv3, can_pack
from upernet.models.internimage_blocks import Block
from upernet.ops.packed.block import BlockWeights, internimage_block
from upernet.ops.packed.linear import PackedLinear, Products

NOTHING = torch.empty(0, dtype=torch.float32, device="cpu")


class PackedBlock(nn.Module):
    """A `Block` with DCNv3, with packed weights.

    Args:
        block: The block, one that `can_pack` accepts. Weights of linear layers are copied, others shared.
        products: Returns what the product of a linear layer computes with.
    """

    def __init__(self, block: Block, products: Callable[[nn.Module], Products]):
        super().__init__()
        dcn, mlp = cast(DCNv3, block.dcn), block.mlp
        depthwise, query_norm = cast(nn.Conv2d, dcn.dw_conv[0]), cast(nn.Sequential, dcn.dw_conv[1])
        sampling = torch.cat((dcn.offset.weight, dcn.mask.weight)), torch.cat((dcn.offset.bias, dcn.mask.bias))
        layers = (
            PackedLinear(dcn.input_proj.weight, dcn.input_proj.bias, products(dcn.input_proj)),
            PackedLinear(*sampling, products(dcn.offset)),
            *(PackedLinear(each.weight, each.bias, products(each)) for each in (dcn.output_proj, mlp.fc1, mlp.fc2)),
        )
        norm1, after1 = _norms_of_branch(block, block.norm1, block.res_post_norm1, block.gamma1)
        norm2, after2 = _norms_of_branch(block, block.norm2, block.res_post_norm2, block.gamma2)
        norms = [_norm(each) for each in (norm1, query_norm, after1, norm2, after2)]
        self.weights = BlockWeights(
            [tensor for layer in layers for tensor in layer.tensors],
            [number for layer in layers for number in layer.rounding],
            [depthwise.weight.detach()[:, 0].permute(1, 2, 0).contiguous(), cast(Tensor, depthwise.bias).detach()],
            [tensor for weight, bias, _ in norms for tensor in (weight, bias)],
            [epsilon for *_, epsilon in norms],
            [NOTHING if gamma is None else gamma.detach().float() for gamma in (block.gamma1, block.gamma2)],
            dcn.groups,
            dcn.kernel_size,
            dcn.offset_scale,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, N x H x W x C, without gradients."""
        return internimage_block(x, self.weights)


def _norms_of_branch(
    block: Block, norm: nn.Module, after: nn.Module | None, gamma: Tensor | None
) -> tuple[nn.Module | None, nn.Module | None]:
    """Return the norms before and after a branch; `Block` leaves `after` out beside a norm after it, or `gamma`."""
    if block.post_norm:
        return None, norm
    return norm, None if gamma is not None else after


def _norm(sequence: nn.Module | None) -> tuple[Tensor, Tensor, float]:
    """Return weight, bias and epsilon of the layer norm in a sequence."""
    if sequence is None:
        return NOTHING, NOTHING, 0.0
    norm = cast(nn.LayerNorm, cast(nn.Sequential, sequence)[-1])
    return norm.weight.detach(), norm.bias.detach(), norm.eps


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
