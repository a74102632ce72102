"""Cross-entropy of resized logits in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upernet.ops.runtime.bilinear import resize_like


def forward(
    logits: Tensor, target: Tensor, weights: Tensor | None, members: Tensor | None, set_weights: Tensor | None
) -> Tensor:
    """Compute `upernet.ops.resized_cross_entropy`."""
    resized = resize_like(logits, target)
    loss = F.cross_entropy(resized, target.clamp(min=-1), weights, ignore_index=-1, reduction="sum")
    if members is None or set_weights is None:
        return loss
    sets = (-2 - target).clamp(min=-1)
    counted = (target < -1) & members.any(dim=1)[sets]
    chosen = sets[counted]
    pixels = resized.movedim(1, -1)[counted]
    among = pixels.masked_fill(~members[chosen], -torch.inf)
    likelihood = among.logsumexp(dim=1) - pixels.logsumexp(dim=1)
    return loss - (set_weights[chosen] * likelihood).sum()
