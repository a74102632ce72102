"""The family of timm's models. This module does not import timm, which takes longer than parsing a photo."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from upernet.models.protocol import BackboneSettings, Normalization, Setting, count_blocks, num_filters

CONVNEXT_STEM = "body.stem_0.weight"
SWIN_STEM = "body.patch_embed.proj.weight"
RESNET_BLOCK = "layer1.0.conv3.weight"

CONVNEXT: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (3, 3, 9, 3)): "convnext_tiny",
    (96, (3, 3, 27, 3)): "convnext_small",
    (128, (3, 3, 27, 3)): "convnext_base",
    (192, (3, 3, 27, 3)): "convnext_large",
    (256, (3, 3, 27, 3)): "convnext_xlarge",
}
"""timm's names by the channels of the stem and the blocks per stage."""
SWIN: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "swin_tiny",
    (96, (2, 2, 18, 2)): "swin_small",
    (128, (2, 2, 18, 2)): "swin_base",
    (192, (2, 2, 18, 2)): "swin_large",
}
"""Beginnings of timm's names by the channels of the stem and the blocks per stage."""
SWIN_WINDOW = {13**2: "patch4_window7_224", 23**2: "patch4_window12_384"}
"""Endings of timm's names by the rows of the table of relative positions, (2 window - 1) squared."""
RESNET: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
"""timm's names by the blocks per stage."""


class TimmFamily:
    """All models of timm that have features at strides 4, 8, 16 and 32, in `BACKBONES`.

    Checkpoints of other programs are recognized if they hold a ConvNeXt, a Swin or a ResNet with bottlenecks.
    """

    listing: str = "a model of timm, see timm.list_models()"
    supported: tuple[Setting, ...] = ("feature_norms",)
    markers: frozenset[str] = frozenset({CONVNEXT_STEM, SWIN_STEM, RESNET_BLOCK})

    def provides(self, name: str) -> bool:
        """Return whether timm has a model of this name, which can have the tag of its weights (`NAME.TAG`)."""
        from timm.models import is_model

        return is_model(name.split(".")[0])

    def create(self, name: str, settings: BackboneSettings) -> nn.Module:
        """Return the features of the timm model `name`."""
        from upernet.models.timm_backbones import create_timm_backbone

        return create_timm_backbone(name, settings)

    def normalization(self, name: str) -> Normalization:
        """Return the normalization that timm states for `name`."""
        from upernet.models.timm_backbones import normalization

        return normalization(name)

    def recognize(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return timm's name of a ConvNeXt, a Swin or a ResNet."""
        if CONVNEXT_STEM in tensors:
            blocks = count_blocks(tensors, r"body\.stages_(\d)\.blocks")
            return CONVNEXT.get((num_filters(tensors, CONVNEXT_STEM), blocks))
        if SWIN_STEM in tensors:
            blocks = count_blocks(tensors, r"body\.layers_(\d)\.blocks")
            rows = num_filters(tensors, "body.layers_0.blocks.0.attn.relative_position_bias_table")
            name = f"{SWIN.get((num_filters(tensors, SWIN_STEM), blocks))}_{SWIN_WINDOW.get(rows)}"
            return name if self.provides(name) else None
        name = RESNET.get(count_blocks(tensors, r"layer(\d)"))
        has_deep_stem = "conv1.0.weight" in tensors
        return f"{name}c" if name and has_deep_stem else name


FAMILY = TimmFamily()
