"""The networks that are measured: InternImage with UPerHead and random weights, and the official way to run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.side_by_side import Run
from upernet.models import UPerNet, build_model
from upernet.models.flash_internimage import DCNv4
from upernet.models.internimage_blocks import DeformableConvolution
from upernet.ops import PLAIN, use_kernel
from upernet.ops.dcnv3.reference import ComposedDcnv3
from upernet.recipe import load_recipe

TINY = {"backbone_options": {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}, "decoder_channels": 64}


def network(letter: str, tiny: bool = False, family: str = "internimage") -> UPerNet:
    """Return InternImage-{letter}, or that of `family`, with UPerHead for ADE20K in eval mode, with random weights."""
    crop = 640 if letter == "L" else 512
    recipe = load_recipe(f"upernet_{family}_{letter.lower()}_{crop}_160k_ade20k")
    if tiny:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=TINY)})
    model = build_model(recipe)
    model.apply(as_if_trained)
    return model.eval()


@torch.no_grad()
def as_if_trained(module: nn.Module) -> None:
    """Set offsets of about a pixel, masks that differ (a new network has neither) and batch-norm statistics."""
    if isinstance(module, DeformableConvolution):
        for name in module.sampling:
            weight = module.get_submodule(name).get_parameter("weight")
            weight.normal_(std=weight.shape[1] ** -0.5)
        if isinstance(module, DCNv4):
            # masks that sum to about 1, as those of DCNv3 do: 30 layers that amplify would also amplify every rounding
            points = module.kernel_size**2
            for tensor, bias in ((module.offset_mask.weight, 0.0), (module.offset_mask.bias, 1.0)):
                groups = tensor[: 3 * points * module.groups].unflatten(0, (module.groups, 3 * points))
                groups[:, 2 * points :].add_(bias).div_(points)
    elif isinstance(module, nn.BatchNorm2d):
        module.get_buffer("running_mean").normal_(std=0.1)
        module.get_buffer("running_var").uniform_(0.5, 1.5)


def head(model: UPerNet, features: list[Tensor]) -> Tensor:
    """Compute UPerHead, all that follows the backbone."""
    assert model.fpn is not None and model.fusion is not None
    return model.heads["object"](model.fusion(model.fpn(features[:-1], model.ppm(features[-1]))))


@contextmanager
def official_way() -> Iterator[None]:
    """Compute as the official code does: DCNv3 by `grid_sample`, direct convolutions of resized, concatenated maps."""
    with use_kernel(**PLAIN), ComposedDcnv3():
        yield


def official_and_fast(run: Run) -> dict[str, Run]:
    """Return `run` in both ways, for `compare`."""
    return {"official": official_way()(run), "fast": run}


def agreement(logits: Tensor, reference: Tensor) -> dict[str, float]:
    """Return the largest difference over the spread of the reference, and the share of pixels with the same class."""
    return {
        "relative_error": float((logits - reference).abs().max() / reference.std()),
        "argmax_agreement": float((logits.argmax(1) == reference.argmax(1)).float().mean()),
    }
