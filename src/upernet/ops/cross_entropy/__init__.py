"""Cross-entropy of logits that are resized to a label map: the loss of segmentation.

The published way (`reference.py`) resizes the logits, takes their logarithmic softmax and picks those of the labels.
With 80 classes, each of these passes over several hundred megabytes. The kernel (`cpu.py`) interpolates one pixel at a
time, only where there is a label, and adds its gradient to that of the logits at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upernet.ops.cross_entropy import reference
from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.eligibility import is_differentiated
from upernet.ops.registration import define_operator, refuse_second_derivative
from upernet.ops.runtime.availability import numba_unavailable


def resized_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    members: Tensor | None = None,
    set_weights: Tensor | None = None,
) -> Tensor:
    """Compute the sum over pixels of the negative log likelihood of their labels, from logits resized to the labels.

    Resizing is bilinear (`align_corners=False`). A label of at least 0 is a class. -1 counts nothing. -2 - s stands for
    "one of the classes of set s": the likelihood is the sum of their probabilities.

    Args:
        logits: N x K x h x w.
        target: Labels, int64 N x H x W, below K and of at least -1 - S.
        weights: Factor of the pixels of each class, K; None: 1.
        members: bool S x K: whether class k belongs to set s. Sets without classes count nothing. None: no sets.
        set_weights: Factor of the pixels of each set, S; given if `members` is.

    Returns:
        The sum, as a scalar of the logits' dtype. Its gradient cannot be differentiated again. The kernel counts the
        probability of a class that is more than e^87 times less likely than another as e^-87.

    Raises:
        ValueError: the shapes or dtypes do not fit together, or a label is neither a class nor a set.
    """
    _check(logits, target, weights, members, set_weights)
    kernel = decide("resized_cross_entropy", choose_resized_cross_entropy(logits), logits, target)
    if kernel == "torch":
        return reference.forward(logits, target, weights, members, set_weights)
    if kernel != "numba":
        raise ValueError(f"resized_cross_entropy has no kernel {kernel}: choose from torch, numba")
    with_gradient = is_differentiated(logits)
    return torch.ops.upernet.resized_cross_entropy(logits, target, weights, members, set_weights, with_gradient)[0]


def choose_resized_cross_entropy(logits: Tensor) -> Choice:
    """Choose the kernel of `resized_cross_entropy` for these logits."""
    if kernel := override("resized_cross_entropy"):
        return Choice(kernel, OVERRIDDEN)
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return Choice("torch", f"there is no other kernel for {logits.dtype} on {logits.device.type}")
    if torch.compiler.is_compiling():
        return Choice("torch", "the compiler fuses it with its neighbors")
    if not logits.numel():
        return Choice("torch", "there are no logits")
    if reason := numba_unavailable("cross_entropy.cpu"):
        return Choice("torch", reason)
    return Choice("numba", "torch passes over the resized logits many times")


def _check(
    logits: Tensor, target: Tensor, weights: Tensor | None, members: Tensor | None, set_weights: Tensor | None
) -> None:
    """Check all shapes and dtypes."""
    if logits.dim() != 4 or target.dim() != 3 or target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"resized_cross_entropy: logits must be N x K x h x w and labels N x H x W, not {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    if target.dtype != torch.int64:
        raise ValueError(f"resized_cross_entropy: labels must be torch.int64, not {target.dtype}")
    classes = logits.shape[1]
    if weights is not None and tuple(weights.shape) != (classes,):
        raise ValueError(f"resized_cross_entropy: {tuple(weights.shape)} weights do not fit {classes} classes")
    if (members is None) != (set_weights is None):
        raise ValueError("resized_cross_entropy: members and set_weights belong together")
    if members is None or set_weights is None:
        return
    if members.dtype != torch.bool or tuple(members.shape) != (len(set_weights), classes) or set_weights.dim() != 1:
        raise ValueError(
            f"resized_cross_entropy: members must be bool {len(set_weights)} x {classes}, not {members.dtype} "
            f"{tuple(members.shape)}"
        )


def _run(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    members: Tensor | None,
    set_weights: Tensor | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    from upernet.ops.cross_entropy import cpu

    _check(logits, target, weights, members, set_weights)
    if logits.device.type != "cpu" or logits.dtype != torch.float32 or not logits.numel():
        raise ValueError(
            f"resized_cross_entropy: the Numba kernel takes float32 on a CPU, not {logits.dtype} on {logits.device}"
        )
    sets = 0 if set_weights is None else len(set_weights)
    low, high = target.aminmax() if target.numel() else (-1, -1)
    if low < -1 - sets or high >= logits.shape[1]:
        raise ValueError(
            f"resized_cross_entropy: labels from {int(low)} to {int(high)} do not fit {logits.shape[1]} classes and "
            f"{sets} sets"
        )
    return cpu.forward(logits, target, weights, members, set_weights, with_gradient)


def _fake(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    images, classes, height, width = logits.shape
    gradient = logits.new_empty(images, height, width, classes) if rest[-1] else logits.new_empty(0, 0, 0, 0)
    return logits.new_empty(()), gradient.permute(0, 3, 1, 2)


def _save(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], inputs[0])


def _backward(ctx: Any, grad: Tensor | None, _: object) -> tuple[Tensor | None, ...]:
    gradient, logits = ctx.saved_tensors
    return (None if grad is None else torch.ops.upernet.scaled_once(gradient, grad, logits), *[None] * 5)


def _scale(gradient: Tensor, factor: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient of the loss times `factor`; for autograd, that depends on the logits."""
    return gradient * factor


define_operator(
    "resized_cross_entropy(Tensor logits, Tensor target, Tensor? weights, Tensor? members, Tensor? set_weights, "
    "bool with_gradient) -> (Tensor, Tensor)",
    _run,
    _fake,
    save=_save,
    backward=_backward,
)
define_operator(
    "scaled_once(Tensor gradient, Tensor factor, Tensor logits) -> Tensor",
    _scale,
    lambda gradient, *rest: torch.empty_like(gradient),
    backward=refuse_second_derivative,
)
