"""DCNv3, deformable convolution with per-point modulation and channel groups (arXiv 2211.05778, section 3.1).

One signature, one `torch.library` operator (`upernet::dcnv3` and `upernet::dcnv3_backward`), four kernels: `triton` on
GPUs, `numba` on CPUs, `embedding_bag` on CPUs without Numba, and `torch`, the reference, which runs everywhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from upernet.ops import dcnv3_torch
from upernet.ops.choice import OVERRIDES, Choice, decide, fault_of_numba
from upernet.ops.sampling import Sampling

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
    """Sum over P points of mask times x, sampled bilinearly at the points' places plus their offsets; zero outside x.

    x is N x H x W x C. offset, N x h x w x (G P 2), holds (dx, dy) in pixels of x. mask is N x h x w x (G P). The
    result is N x h x w x C in the type of x, h = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1; pairs
    are (vertical, horizontal). Group g has the channels g C/G to (g + 1) C/G. Points are in x-major order (all of the
    leftmost column first), and offset_scale stretches the grid as well as the offsets. remove_center leaves the central
    point out.

    Float types may be mixed, as under autocast; sums are in float32, or in float64 if a tensor is. A sample at infinity
    or NaN counts as zero and passes no gradient on to its offset. Gradients exist once, not twice.

    Raises ValueError if shapes do not fit together.
    """
    sampling = Sampling(kernel_size, stride, padding, dilation, groups, float(offset_scale), remove_center)
    _check(x, offset, mask, sampling)
    return torch.ops.upernet.dcnv3(x, offset, mask, *sampling)


def choose_dcnv3(x: Tensor) -> Choice:
    """The kernel that `dcnv3` uses for this x and its gradient, and why."""
    if "dcnv3" in OVERRIDES:
        return Choice(OVERRIDES["dcnv3"], "asked for with use_kernel")
    if x.device.type == "cuda":
        if importlib.util.find_spec("triton"):
            return Choice("triton", "x is on a GPU")
        return Choice("torch", "x is on a GPU and Triton is not installed")
    if x.device.type != "cpu":
        return Choice("torch", f"no other kernel runs on {x.device.type}")
    if x.shape[1] * x.shape[2] >= 2**31:
        return Choice("embedding_bag", "the Numba kernels count the pixels of an image with 32 bits")
    if fault := fault_of_numba("dcnv3_numba"):
        return Choice("embedding_bag", fault)
    return Choice("numba", "x is on the CPU")


def _check(x: Tensor, offset: Tensor, mask: Tensor, s: Sampling) -> None:
    if x.dim() != 4 or offset.dim() != 4 or mask.dim() != 4:
        raise ValueError(
            "dcnv3: x, offset and mask must have 4 dimensions (N x H x W x channels), "
            f"not {x.dim()}, {offset.dim()} and {mask.dim()}"
        )
    if not (x.is_floating_point() and offset.is_floating_point() and mask.is_floating_point()):
        raise ValueError(f"dcnv3: x, offset and mask must be float, not {x.dtype}, {offset.dtype} and {mask.dtype}")
    if not x.device == offset.device == mask.device:
        raise ValueError(
            f"dcnv3: x, offset and mask must be on one device, not {x.device}, {offset.device} and {mask.device}"
        )
    if min(*s.kernel_size, *s.stride, *s.dilation, s.groups) < 1 or min(s.padding) < 0:
        raise ValueError(
            f"dcnv3: kernel_size {s.kernel_size}, stride {s.stride}, dilation {s.dilation} and groups {s.groups} must "
            f"be positive, padding {s.padding} must not be negative"
        )
    if s.remove_center and (s.kernel_size[0] != s.kernel_size[1] or s.kernel_size[0] % 2 == 0 or s.kernel_size[0] == 1):
        raise ValueError(f"dcnv3: remove_center needs an odd square kernel of 3 or more, not {s.kernel_size}")
    n, height, width, channels = x.shape
    if channels % s.groups:
        raise ValueError(f"dcnv3: the {channels} channels of x cannot be divided into {s.groups} groups")
    h, w = s.output_size(height, width)
    if height < 1 or width < 1 or h < 1 or w < 1:
        raise ValueError(f"dcnv3: x of {height} x {width} is too small for the kernel: the result would be {h} x {w}")
    points = s.groups * len(s.displacements)
    for name, tensor, last in (("offset", offset, 2 * points), ("mask", mask, points)):
        if tuple(tensor.shape) != (n, h, w, last):
            raise ValueError(f"dcnv3: {name} must have shape {(n, h, w, last)}, not {tuple(tensor.shape)}")


def _kernel(name: str) -> tuple[Callable[..., Tensor], Callable[..., Gradients]]:
    """Forward and backward of a kernel; imports take time, so none is imported that is not used."""
    if name == "numba":
        from upernet.ops import dcnv3_numba

        return dcnv3_numba.forward, dcnv3_numba.backward
    if name == "triton":
        from upernet.ops import dcnv3_triton

        return dcnv3_triton.forward, dcnv3_triton.backward
    plain = {"torch": dcnv3_torch.grid_sample, "embedding_bag": dcnv3_torch.embedding_bag}
    if name not in plain:
        raise ValueError(f"dcnv3 has no kernel {name}: choose from torch, embedding_bag, numba, triton")
    return plain[name], dcnv3_torch.backward_of(dcnv3_torch.grid_sample)  # embedding_bag's own is three times slower


def _sampling(geometry: Sequence[Any]) -> Sampling:
    kernel_size, stride, padding, dilation, *rest = geometry
    return Sampling(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), *rest)


def _run_forward(x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Tensor:
    forward, _ = _kernel(decide("dcnv3", choose_dcnv3(x), x, offset, mask))
    return forward(x, offset, mask, _sampling(geometry)).to(x.dtype)


def _run_backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Gradients:
    _, backward = _kernel(decide("dcnv3_backward", choose_dcnv3(x), x, offset, mask))
    g_x, g_offset, g_mask = backward(grad, x, offset, mask, _sampling(geometry))
    return (
        g_x.to(x.dtype).contiguous(),
        g_offset.to(offset.dtype).contiguous(),
        g_mask.to(mask.dtype).contiguous(),
    )


def _fake_forward(x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Tensor:
    return x.new_empty(*offset.shape[:3], x.shape[-1])


def _fake_backward(grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor, *geometry: Any) -> Gradients:
    return x.new_empty(x.shape), offset.new_empty(offset.shape), mask.new_empty(mask.shape)


def _save(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.geometry = inputs[3:]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    gradients = torch.ops.upernet.dcnv3_backward(grad, *ctx.saved_tensors, *ctx.geometry)
    return *gradients, *(None for _ in ctx.geometry)


# not torch.library.custom_op: that imports the compiler at the first call, which takes a second
_ARGUMENTS = (
    "Tensor x, Tensor offset, Tensor mask, int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups, "
    "float offset_scale, bool remove_center"
)
_library = torch.library.Library("upernet", "FRAGMENT")
_library.define(f"dcnv3({_ARGUMENTS}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_library.define(
    f"dcnv3_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)", tags=torch.Tag.pt2_compliant_tag
)
_library.impl("dcnv3", _run_forward, "CompositeExplicitAutograd")
_library.impl("dcnv3_backward", _run_backward, "CompositeExplicitAutograd")
torch.library.register_fake("upernet::dcnv3", _fake_forward, lib=_library)
torch.library.register_fake("upernet::dcnv3_backward", _fake_backward, lib=_library)
torch.library.register_autograd("upernet::dcnv3", _differentiate, setup_context=_save, lib=_library)


@register_flop_formula(torch.ops.upernet.dcnv3)
def _flops(
    x: Sequence[int],
    offset: Sequence[int],
    mask: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *_: Any,
    **__: Any,
) -> int:
    """As InternImage's published figures count: 5 multiply-adds per point and channel, each of 2 operations."""
    n, h, w, points = mask
    return 2 * 5 * n * h * w * (points // groups) * x[3]


@register_flop_formula(torch.ops.upernet.dcnv3_backward)
def _backward_flops(grad: Sequence[int], *inputs: Any, **__: Any) -> int:
    """Twice the forward pass, as for a convolution."""
    return 2 * _flops(*inputs)
