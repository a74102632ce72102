"""1x1 convolutions through oneDNN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.dispatch import override
from upernet.ops.eligibility import has_onednn, is_differentiated

SMALL = 20480
"""Numbers of a map up to which `F.conv2d` does not choose oneDNN, with several threads either."""


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a 1x1 convolution, as `F.conv2d` does: N x C x H x W -> N x D x H x W.

    With one thread, `F.conv2d` sends 1x1 convolutions of one image to a library that is slower than oneDNN on some
    processors. `use_kernel(linear="torch")` calls `F.conv2d` all the same.

    Args:
        x: N x C x H x W.
        weight: D x C x 1 x 1.
        bias: D.
    """
    if (
        torch.compiler.is_compiling()  # first: torch's compiler cannot trace the next ones
        or torch.get_num_threads() > 1
        or override("linear") == "torch"
        or x.numel() <= SMALL
        or not x.dtype == weight.dtype == torch.float32
        or x.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")
        or is_differentiated(x, weight, bias)
        or not has_onednn()
    ):
        return F.conv2d(x, weight, bias)
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, (0, 0), (1, 1), (1, 1), 1)
