"""Rules that decide which tensors a kernel can take. Each function returns the reason why not, or an empty string."""

from __future__ import annotations

import torch
from torch import Tensor

from upernet.ops.runtime.availability import bfloat16_unavailable

LANES = 16
"""Numbers in a vector of the Numba kernels; their channel counts must be multiples of it."""
MAX_SIDE = 2**15
"""Maximum height and width of maps for the Triton kernels, whose coordinates are 32-bit."""


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Return whether autograd records an operation on these tensors."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def has_onednn() -> bool:
    """Return whether PyTorch may send float32 products on the CPU to oneDNN."""
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def unfit_for_numba(*maps: Tensor) -> str:
    """Check the device, dtypes, channels and size of maps N x C x H x W."""
    first = maps[0]
    if first.device.type != "cpu" or first.dtype not in (torch.float32, torch.float64):
        return f"there is no other kernel for {first.dtype} on {first.device.type}"
    if any(x.dtype != first.dtype for x in maps):
        return "maps differ in dtype"
    if any(x.shape[1] % LANES for x in maps):
        return f"channels are not a multiple of {LANES}"
    return "" if all(x.numel() for x in maps) else "a map is empty"


def needs_torch(*maps: Tensor) -> str:
    """Check maps as `unfit_for_numba` does; under autocast, torch chooses the dtypes."""
    return "autocast chooses the dtypes" if torch.is_autocast_enabled("cpu") else unfit_for_numba(*maps)


def weight_needs_torch(weight: Tensor, x: Tensor) -> str:
    """Check the number of outputs and the dtype of a weight D x C x ... that is applied to the map `x`."""
    if weight.shape[0] % LANES:
        return f"outputs are not a multiple of {LANES}"
    if weight.dtype == torch.bfloat16 and x.dtype == torch.float32:
        return "" if torch.compiler.is_compiling() else bfloat16_unavailable()
    return "" if weight.dtype == x.dtype else f"the weight is not {x.dtype}"


def unfit_for_triton(*tensors: Tensor) -> str:
    """Check dtypes and sizes of maps and weights on a GPU."""
    dtypes = {x.dtype for x in tensors}
    floats = {torch.float32, torch.float16, torch.bfloat16}
    if not dtypes <= floats | {torch.float64}:
        return f"there is no other kernel for {tensors[0].dtype} on a GPU"
    if len(dtypes) > 1 and not (torch.is_autocast_enabled("cuda") and dtypes <= floats):
        return "maps and weights differ in dtype"
    if any(max(x.shape[2:]) > MAX_SIDE for x in tensors):
        return f"a map is longer than {MAX_SIDE} pixels"
    return "" if all(x.numel() for x in tensors) else "a map is empty"
