"""What the benchmarks measure: InternImage with UPerHead, random weights, and the official way to run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.side_by_side import Run
from upernet.models import UPerNet, build_model
from upernet.models.internimage import DCNv3
from upernet.ops import PLAIN, use_kernel
from upernet.ops.dcnv3_torch import grid_sample
from upernet.ops.sampling import Sampling
from upernet.recipe import load_recipe

TINY = {"backbone_options": {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}, "decoder_channels": 64}


def network(letter: str, tiny: bool = False) -> UPerNet:
    """InternImage-{letter} + UPerHead of ADE20K in eval mode, its weights random; a `tiny` one to try things."""
    recipe = load_recipe(f"upernet_internimage_{letter.lower()}_512_160k_ade20k")
    if tiny:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=TINY)})
    model = build_model(recipe)
    model.apply(_as_if_trained)
    return model.eval()


@torch.no_grad()
def _as_if_trained(module: nn.Module) -> None:
    """Offsets of about a pixel and masks that differ, which DCNv3 begins without, and statistics of batch norms."""
    if isinstance(module, DCNv3):
        for linear in (module.offset, module.mask):
            linear.weight.normal_(std=linear.in_features**-0.5)
    elif isinstance(module, nn.BatchNorm2d):
        module.get_buffer("running_mean").normal_(std=0.1)
        module.get_buffer("running_var").uniform_(0.5, 1.5)


def head(model: UPerNet, features: list[Tensor]) -> Tensor:
    """UPerHead: what comes after the backbone."""
    assert model.fpn is not None and model.fusion is not None
    return model.heads["object"](model.fusion(model.fpn(features[:-1], model.ppm(features[-1]))))


class PlainDcnv3(TorchFunctionMode):
    """Inside, DCNv3 is a composition of torch's own functions, which autograd and exporters see through.

    As an operator, `use_kernel(dcnv3="torch")` would compute its forward pass once more for the gradient.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.upernet.dcnv3, torch.ops.upernet.dcnv3.default):
            x, offset, mask, *geometry = args
            return grid_sample(x, offset, mask, Sampling(*geometry)).to(x.dtype)
        return func(*args, **(kwargs or {}))


@contextmanager
def official_way() -> Iterator[None]:
    """As the official code computes: DCNv3 by `grid_sample`, direct convolutions of resized, concatenated maps."""
    with use_kernel(**PLAIN), PlainDcnv3():
        yield


def official_and_fast(run: Run) -> dict[str, Run]:
    """`run` both ways, for `compare`."""
    return {"official": official_way()(run), "fast": run}


def agreement(logits: Tensor, reference: Tensor) -> dict[str, float]:
    """Largest difference over the spread of the reference, and the share of pixels with the same class."""
    return {
        "relative_error": float((logits - reference).abs().max() / reference.std()),
        "argmax_agreement": float((logits.argmax(1) == reference.argmax(1)).float().mean()),
    }
