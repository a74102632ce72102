"""The blocks of InternImage (arXiv 2211.05778, section 3.2) with packed weights, for inference on CPUs.

State of this module: `_prepared`, from the first weight of a block (held weakly) to the block as the kernels take it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.dispatch import decide
from upernet.ops.registration import define_operator
from upernet.ops.runtime.memory import empty


class BlockWeights(NamedTuple):
    """A block with DCNv3 and a multilayer perceptron, as the operator takes it.

    The linear layers are those before DCNv3, from the depthwise convolution to offsets and masks, after DCNv3, and the
    two of the multilayer perceptron. The layer norms are those before DCNv3, after the depthwise convolution, after
    DCNv3, before and after the multilayer perceptron. Tensors of norms and factors that a block lacks are empty.
    """

    layers: list[Tensor]
    """Tensors of each linear layer (`PackedLinear.tensors`)."""
    roundings: list[float]
    """How the inputs of each linear layer are rounded (`PackedLinear.rounding`)."""
    depthwise: list[Tensor]
    """Weight k x k x C, k odd, and bias C of the depthwise convolution; a layer norm and a GELU follow it."""
    norms: list[Tensor]
    """Weight and bias of each layer norm, C each."""
    epsilons: list[float]
    """Epsilon of each layer norm."""
    factors: list[Tensor]
    """What the results of DCNv3 and of the multilayer perceptron are multiplied by before they are added, C each."""
    groups: int
    """Groups of DCNv3."""
    kernel_size: int
    """Height and width of the kernel of DCNv3, which is odd and keeps the size."""
    offset_scale: float
    """Factor of the offsets of DCNv3."""


def internimage_block(x: Tensor, weights: BlockWeights) -> Tensor:
    """Compute a block, without gradients.

    A thread takes 64 pixels from the depthwise convolution to the end of the block, and nothing in between leaves its
    cache. For torch's compiler and exporter, a block is one operator.

    Args:
        x: N x H x W x C, float32, C a multiple of 16.
        weights: The block; its weights were packed on this kind of processor.

    Returns:
        N x H x W x C.

    Raises:
        ValueError: `x` does not fit the weights, or the weights do not fit the processor.
    """
    return torch.ops.upernet.internimage_block(x.detach(), *weights)


_prepared = WeakTensorKeyDictionary()


def _prepare(weights: BlockWeights) -> Any:
    """Return the arguments of the kernels that depend on the weights, whose memory they share."""
    import numpy as np

    from upernet.ops.packed import linear_cpu

    layers, roundings, depthwise, norms, epsilons, factors, groups, size, scale = weights
    tensors = (*layers, *depthwise, *norms, *factors)
    # As the arguments keep the memory, no other tensor can have the address of one of these.
    key = ([tensor.data_ptr() for tensor in tensors], *map(tuple, (roundings, epsilons)), groups, size, scale)
    found: Any = _prepared.get(layers[0])
    if found is not None and found[0] == key:
        return found[1]
    values, sampling, output, first, second = (
        linear_cpu.layer(layers[4 * k : 4 * k + 4], roundings[2 * k : 2 * k + 2]) for k in range(5)
    )
    arrays = [tensor.detach().numpy() for tensor in norms]
    before, query, after, before_mlp, after_mlp = (
        (arrays[2 * k], arrays[2 * k + 1], np.float32(epsilon)) for k, epsilon in enumerate(epsilons)
    )
    factors_of_dcn, factors_of_mlp = (tensor.detach().numpy() for tensor in factors)
    weight, bias = (tensor.detach().numpy() for tensor in depthwise)
    arguments = (
        (values, before),
        Geometry((size, size), (1, 1), (size // 2, size // 2), (1, 1), groups, scale, False),
        ((weight.reshape(-1), bias, len(weight)), query, sampling),
        (output, after, factors_of_dcn),
        (first, second, before_mlp, after_mlp, factors_of_mlp),
    )
    _prepared[layers[0]] = key, arguments
    return arguments


def _run(x: Tensor, *weights: Any) -> Tensor:
    import numpy as np

    from upernet.ops.dcnv3.cpu import grid
    from upernet.ops.packed import block_cpu, linear_cpu
    from upernet.ops.packed.linear import as_rows, packed

    block = BlockWeights(*weights)
    channels = len(block.depthwise[1])
    if x.dim() != 4 or x.shape[3] != channels or x.dtype != torch.float32:
        raise ValueError(f"internimage_block: {tuple(x.shape)} of {x.dtype} are not float32 N x H x W x {channels}")
    choice = packed(block.layers[0])
    for operator in ("linear", "dcnv3", "mlp"):
        decide(operator, choice, x)
    (values, norm), geometry, query, output, mlp = _prepare(block)
    x = x.contiguous()
    has_norm = norm[0].size > 0
    y = empty(*x.shape, dtype=x.dtype) if has_norm else x
    sampled, out = empty(*x.shape, dtype=x.dtype), empty(*x.shape, dtype=x.dtype)
    linear_cpu.linear(as_rows(x), values, as_rows(sampled), norm, as_rows(y) if has_norm else None)
    places = grid(geometry, block.groups, x.shape[2], np.dtype(np.float32))
    sampling = (block.groups, block.kernel_size**2, block.offset_scale, *places)
    block_cpu.block((x, y, sampled), out, sampling, query, output, mlp)
    return out


def _fake(x: Tensor, *weights: Any) -> Tensor:
    return x.new_empty(x.shape)


define_operator(
    "internimage_block(Tensor x, Tensor[] layers, float[] roundings, Tensor[] depthwise, Tensor[] norms, "
    "float[] epsilons, Tensor[] factors, int groups, int kernel_size, float offset_scale) -> Tensor",
    _run,
    _fake,
)
