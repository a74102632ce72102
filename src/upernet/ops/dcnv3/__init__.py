"""DCNv3: deformable convolution with modulation per point and groups of channels (arXiv 2211.05778, section 3.1).

`upernet::dcnv3` and `upernet::dcnv3_backward` are custom operators with four kernels: `torch` (`reference.py`, which
runs everywhere), `embedding_bag` (CPUs without Numba), `numba` (CPUs) and `triton` (GPUs). They also take offsets and
masks as N x h x w x G x (P 2) and N x h x w x G x P with any strides, which is how `upernet.ops.dcnv4` calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.dcnv3 import embedding_bag, reference
from upernet.ops.dcnv3.geometry import Geometry
from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.registration import define_operator
from upernet.ops.runtime.availability import numba_unavailable, triton_unavailable

Gradients = tuple[Tensor, Tensor, Tensor]


def dcnv3(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """Sum P points per output pixel: `mask` times `x`, sampled bilinearly at each point's position plus its offset.

    Samples outside `x`, and those at infinity or NaN, are zero and pass no gradient to their offset. Float dtypes may
    be mixed, as under autocast; sums are computed in float32, or in float64 if any tensor is float64. Only first-order
    gradients are implemented.

    Args:
        x: N x H x W x C. Group g consists of the channels g C/G to (g + 1) C/G.
        offset: N x h x w x (G P 2), (dx, dy) in pixels of `x`. The points are in x-major order: all of the leftmost
            kernel column come first.
        mask: N x h x w x (G P).
        kernel_size, stride, padding, dilation: (vertical, horizontal).
        groups: number of groups G.
        offset_scale: factor of the kernel's grid and of the offsets.
        remove_center: leave out the central point.

    Returns:
        N x h x w x C in the dtype of `x`, with h = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1.

    Raises:
        ValueError: the shapes do not fit together.
    """
    geometry = Geometry(kernel_size, stride, padding, dilation, groups, float(offset_scale), remove_center)
    rows = check_inputs("dcnv3", geometry, x, offset=offset, mask=mask)
    points = groups * len(geometry.displacements)
    for name, tensor, last in (("offset", offset, 2 * points), ("mask", mask, points)):
        if tensor.shape != (*rows, last):
            raise ValueError(f"dcnv3: {name} must have shape {(*rows, last)}, not {tuple(tensor.shape)}")
    return torch.ops.upernet.dcnv3(x, offset, mask, *geometry)


def choose_dcnv3(x: Tensor) -> Choice:
    """Choose the kernel of `dcnv3` for this `x`, and of its gradient."""
    if kernel := override("dcnv3"):
        return Choice(kernel, OVERRIDDEN)
    if x.device.type == "cuda":
        if reason := triton_unavailable():
            return Choice("torch", reason)
        return Choice("triton", "x is on a GPU")
    if x.device.type != "cpu":
        return Choice("torch", f"no other kernel runs on {x.device.type}")
    if x.shape[1] * x.shape[2] >= 2**31:
        return Choice("embedding_bag", "the Numba kernels count the pixels of an image with 32 bits")
    if reason := numba_unavailable("dcnv3.cpu"):
        return Choice("embedding_bag", reason)
    return Choice("numba", "x is on the CPU")


def check_inputs(operator: str, s: Geometry, x: Tensor, **others: Tensor) -> tuple[int, int, int]:
    """Check all but the shapes of `others`, and return their first three dimensions, N, h and w.

    Raises:
        ValueError: the inputs of `operator` are not 4-dimensional float tensors on one device, or the geometry does not
            fit them.
    """
    inputs = {"x": x, **others}

    def list_of(values: Sequence[object]) -> str:
        return f"{', '.join(map(str, values[:-1]))} and {values[-1]}"

    names = f"{operator}: {list_of(list(inputs))} must"
    if any(tensor.dim() != 4 for tensor in inputs.values()):
        found = list_of([tensor.dim() for tensor in inputs.values()])
        raise ValueError(f"{names} have 4 dimensions (N x H x W x channels), not {found}")
    if not all(tensor.is_floating_point() for tensor in inputs.values()):
        raise ValueError(f"{names} be float, not {list_of([tensor.dtype for tensor in inputs.values()])}")
    if any(tensor.device != x.device for tensor in others.values()):
        raise ValueError(f"{names} be on one device, not {list_of([tensor.device for tensor in inputs.values()])}")
    if min(*s.kernel_size, *s.stride, *s.dilation, s.groups) < 1 or min(s.padding) < 0:
        raise ValueError(
            f"{operator}: kernel_size {s.kernel_size}, stride {s.stride}, dilation {s.dilation} and groups {s.groups} "
            f"must be positive, padding {s.padding} must not be negative"
        )
    if s.remove_center and (s.kernel_size[0] != s.kernel_size[1] or s.kernel_size[0] % 2 == 0 or s.kernel_size[0] == 1):
        raise ValueError(f"{operator}: remove_center needs an odd square kernel of 3 or more, not {s.kernel_size}")
    n, height, width, channels = x.shape
    if channels % s.groups:
        raise ValueError(f"{operator}: the {channels} channels of x cannot be divided into {s.groups} groups")
    h, w = s.output_size(height, width)
    if height < 1 or width < 1 or h < 1 or w < 1:
        raise ValueError(
            f"{operator}: x of {height} x {width} is too small for the kernel: the result would be {h} x {w}"
        )
    return n, h, w


def _kernel(name: str) -> tuple[Callable[..., Tensor], Callable[..., Gradients]]:
    """Return the forward and backward function of a kernel; only the modules in use are imported, for a fast start."""
    if name == "torch":
        return reference.forward, reference.backward
    if name == "embedding_bag":
        return embedding_bag.forward, reference.backward  # three times faster than a backward pass of its own
    if name == "numba":
        from upernet.ops.dcnv3 import cpu

        return cpu.forward, cpu.backward
    if name == "triton":
        from upernet.ops.dcnv3 import gpu

        return gpu.forward, gpu.backward
    raise ValueError(f"dcnv3 has no kernel {name}: choose from torch, embedding_bag, numba, triton")


def _geometry(arguments: Sequence[Any]) -> Geometry:
    kernel_size, stride, padding, dilation, *rest = arguments
    return Geometry(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), *rest)


def _run(x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Tensor:
    forward, _ = _kernel(decide("dcnv3", choose_dcnv3(x), x, offset, mask))
    return forward(x, offset, mask, _geometry(geometry)).to(x.dtype)


def _run_backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Gradients:
    _, backward = _kernel(decide("dcnv3_backward", choose_dcnv3(x), x, offset, mask))
    g_x, g_offset, g_mask = backward(grad, x, offset, mask, _geometry(geometry))
    return (
        g_x.to(x.dtype).contiguous(),
        g_offset.to(offset.dtype).contiguous(),
        g_mask.to(mask.dtype).contiguous(),
    )


def _fake(x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Tensor:
    return x.new_empty(*offset.shape[:3], x.shape[-1])


def _fake_backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Gradients:
    return x.new_empty(x.shape), offset.new_empty(offset.shape), mask.new_empty(mask.shape)


def _save(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.geometry = inputs[3:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    gradients = torch.ops.upernet.dcnv3_backward(grad, *ctx.saved_tensors, *ctx.geometry)
    return *gradients, *(None for _ in ctx.geometry)


def _flops(x: Sequence[int], offset: Sequence[int], mask: Sequence[int], *geometry: Any, **kwargs: Any) -> int:
    """Count 5 multiply-adds per point and channel, as InternImage's published figures do."""
    groups = geometry[4]
    return 2 * 5 * math.prod(mask) // groups * x[3]


def _backward_flops(grad: Sequence[int], *inputs: Any, **kwargs: Any) -> int:
    """Count twice the forward pass, as for a convolution."""
    return 2 * _flops(*inputs)


_ARGUMENTS = (
    "Tensor x, Tensor offset, Tensor mask, int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups, "
    "float offset_scale, bool remove_center"
)
define_operator(f"dcnv3({_ARGUMENTS}) -> Tensor", _run, _fake, save=_save, backward=_backward, flops=_flops)
define_operator(
    f"dcnv3_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
    flops=_backward_flops,
)
