"""Inference of the architecture from the names and shapes of tensors.

Files of other programs do not describe their network. Their tensors are renamed first (`formats/`), so that one set of
rules serves all formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from upernet.models.internimage import VARIANTS

INTERNIMAGE_STEM = "backbone.patch_embed.conv2.weight"
CONVNEXT_STEM = "backbone.body.stem_0.weight"
SWIN_STEM = "backbone.body.patch_embed.proj.weight"
RESNET_BLOCK = "backbone.layer1.0.conv3.weight"
BACKBONES = frozenset({INTERNIMAGE_STEM, CONVNEXT_STEM, SWIN_STEM, RESNET_BLOCK})
"""One tensor of each kind of backbone, under own names."""
CONVNEXT: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (3, 3, 9, 3)): "convnext_tiny",
    (96, (3, 3, 27, 3)): "convnext_small",
    (128, (3, 3, 27, 3)): "convnext_base",
    (192, (3, 3, 27, 3)): "convnext_large",
    (256, (3, 3, 27, 3)): "convnext_xlarge",
}
SWIN: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "swin_tiny",
    (96, (2, 2, 18, 2)): "swin_small",
    (128, (2, 2, 18, 2)): "swin_base",
    (192, (2, 2, 18, 2)): "swin_large",
}
SWIN_WINDOW = {13**2: "patch4_window7_224", 23**2: "patch4_window12_384"}
"""Rows of the table of relative positions, (2 window - 1) squared -> end of timm's name."""
RESNET: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the backbone that tensors under own names belong to; None: not one that is known here."""
    if INTERNIMAGE_STEM in tensors:
        named = {(spec["channels"], spec["depths"]): name for name, spec in VARIANTS.items()}
        return named.get((_size(tensors, INTERNIMAGE_STEM), _depths(tensors, r"levels\.(\d)\.blocks")))
    if CONVNEXT_STEM in tensors:
        return CONVNEXT.get((_size(tensors, CONVNEXT_STEM), _depths(tensors, r"body\.stages_(\d)\.blocks")))
    if SWIN_STEM in tensors:
        name = SWIN.get((_size(tensors, SWIN_STEM), _depths(tensors, r"body\.layers_(\d)\.blocks")))
        rows = _size(tensors, "backbone.body.layers_0.blocks.0.attn.relative_position_bias_table")
        from timm.models import is_model

        full = f"{name}_{SWIN_WINDOW.get(rows)}"
        return full if is_model(full) else None
    if RESNET_BLOCK in tensors:
        name = RESNET.get(_depths(tensors, r"layer(\d)"))
        deep_stem = "backbone.conv1.0.weight" in tensors
        return f"{name}c" if name and deep_stem else name
    return None


def decoder_of(tensors: Mapping[str, Tensor]) -> dict[str, int | None]:
    """Return the widths that a ModelSpec needs, from tensors under our names; None: there is no auxiliary head."""
    return {
        "head_channels": 0,
        "decoder_channels": _size(tensors, "ppm.bottleneck.0.weight"),
        "auxiliary_channels": _size(tensors, "auxiliary.conv.0.weight") or None,
    }


def is_upernet(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether tensors under our names include the three parts of UPerNet's decoder."""
    return {"ppm.bottleneck.0.weight", "fpn.output.0.0.weight", "fusion.conv.0.weight"} <= tensors.keys()


def has_feature_norms(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether tensors under our names include layer norms on the backbone's features."""
    return "backbone.norms.0.weight" in tensors


def num_classes_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of channels of the object logits; 0 without an object head."""
    return _size(tensors, "heads.object.classifier.weight")


def _size(tensors: Mapping[str, Tensor], key: str) -> int:
    return tensors[key].shape[0] if key in tensors and tensors[key].ndim else 0


def _depths(tensors: Mapping[str, Tensor], stage: str) -> tuple[int, ...]:
    """Number of blocks in each stage of the backbone."""
    matches = (re.match(rf"backbone\.{stage}\.(\d+)\.", key) for key in tensors)
    blocks = {match.groups() for match in matches if match}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(block[0] == stage for block in blocks) for stage in stages)
