"""InternImage (arXiv 2211.05778): a convolutional backbone whose mixing operator is DCNv3.

Parameters have the names of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from upernet.models.internimage_blocks import (
    BackboneSpec,
    Block,
    DeformableConvolution,
    Mlp,
    StagedBackbone,
    ToChannelsLast,
    layer_norm,
    recognize_variant,
)
from upernet.models.layers import Linear
from upernet.models.protocol import IMAGENET, BackboneSettings, Normalization, OptionValue, Setting
from upernet.ops import dcnv3, grouped_softmax, linear
from upernet.ops.eligibility import LANES
from upernet.settings import Whole, check_settings


class InternImageSpec(BackboneSpec):
    """Hyperparameters that differ between variants (paper, table 1 and appendix)."""

    res_post_norm: bool = False
    """Normalize before and after the residual branch."""
    dw_kernel_size: Whole = Field(default=3, ge=1, le=31)
    """Kernel size of the depthwise convolution that offsets and masks are computed from."""
    level2_post_norm_blocks: tuple[Annotated[Whole, Field(ge=0, le=4096)], ...] = ()
    """Blocks of the third stage ("level 2" in the published configurations) that a layer norm follows."""
    center_feature_scale: bool = False
    """Blend each group's DCNv3 output with its input by a learned gate."""


SMALL: dict[str, Any] = {"post_norm": True}
LARGE: dict[str, Any] = {"post_norm": True, "offset_scale": 2.0}
HUGE: dict[str, Any] = {
    "layer_scale": None,
    "dw_kernel_size": 5,
    "res_post_norm": True,
    "level2_post_norm_blocks": (5, 11, 17, 23, 29),
    "center_feature_scale": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "internimage_t": {"channels": 64, "depths": (4, 4, 18, 4), "groups": (4, 8, 16, 32)},
    "internimage_s": {"channels": 80, "depths": (4, 4, 21, 4), "groups": (5, 10, 20, 40), **SMALL},
    "internimage_b": {"channels": 112, "depths": (4, 4, 21, 4), "groups": (7, 14, 28, 56), **SMALL},
    "internimage_l": {"channels": 160, "depths": (5, 5, 22, 5), "groups": (10, 20, 40, 80), **LARGE},
    "internimage_xl": {"channels": 192, "depths": (5, 5, 24, 5), "groups": (12, 24, 48, 96), **LARGE},
    "internimage_h": {"channels": 320, "depths": (6, 6, 32, 6), "groups": (10, 20, 40, 80), **HUGE},
}


def create_internimage(name: str, options: Mapping[str, OptionValue], drop_path: float = 0.0) -> InternImage:
    """Return the variant `name`, one of `VARIANTS`, with `options` replacing its own values.

    Raises:
        UpernetError: `InternImageSpec` does not have an option, or a value is out of range.
    """
    values = {**VARIANTS[name], "drop_path_rate": drop_path, **options}
    return InternImage(check_settings(values, InternImageSpec, f"backbone_options of {name}"))


class InternImage(StagedBackbone):
    """The feature extractor. It implements `upernet.models.backbones.Backbone`."""

    def __init__(self, spec: InternImageSpec):
        def block(channels: int, groups: int, drop_path: float) -> Block:
            dcn = DCNv3(channels, groups, spec.offset_scale, spec.dw_kernel_size, spec.center_feature_scale)
            mlp = Mlp(channels, int(channels * spec.mlp_ratio))
            return Block(channels, dcn, mlp, spec, drop_path, spec.res_post_norm)

        final_norms = not spec.post_norm or spec.center_feature_scale
        super().__init__(spec, block, final_norms, spec.level2_post_norm_blocks)
        self.spec = spec


class DCNv3(DeformableConvolution):
    """DCNv3 with its projections: N x H x W x C -> the same shape (paper, section 3.1 and equation 2).

    Offsets (dx, dy per group and point) and masks (softmax over the points) come from a depthwise convolution.
    """

    projections = ("input_proj", "output_proj")
    sampling = ("offset", "mask")
    bfloat16_layers = (*projections, *sampling)

    def __init__(
        self,
        channels: int,
        groups: int,
        offset_scale: float = 1.0,
        dw_kernel_size: int = 3,
        center_feature_scale: bool = False,
        kernel_size: int = 3,
    ):
        super().__init__()
        self.groups = groups
        self.offset_scale = offset_scale
        self.kernel_size = kernel_size
        points = kernel_size**2
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, dw_kernel_size, padding=dw_kernel_size // 2, groups=channels),
            nn.Sequential(ToChannelsLast(), layer_norm(channels)),
            nn.GELU(),
        )
        self.offset = Linear(channels, groups * points * 2)
        self.mask = Linear(channels, groups * points)
        self.input_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
        self.center_feature_scale_proj_weight = self.center_feature_scale_proj_bias = None
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(groups, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(groups))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output projection of the sampled values."""
        values = self.input_proj(x)
        query = self.dw_conv(x.permute(0, 3, 1, 2))
        weights = grouped_softmax(self.mask(query), self.groups)
        size, around = self.kernel_size, self.kernel_size // 2
        y = dcnv3(
            values,
            self.offset(query),
            weights.to(values.dtype),
            (size, size),
            padding=(around, around),
            groups=self.groups,
            offset_scale=self.offset_scale,
        )
        if self.center_feature_scale_proj_weight is not None:
            gate = linear(query, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            gate = gate.sigmoid().repeat_interleave(x.shape[-1] // self.groups, -1)
            y = y * (1 - gate) + values * gate
        return self.output_proj(y)


def can_pack(module: nn.Module) -> bool:
    """Return whether `PackedBlock` computes a module: a block with DCNv3, no gate, and channels in whole vectors."""
    if not isinstance(module, Block) or not isinstance(module.dcn, DCNv3):
        return False
    first = module.mlp.fc1
    is_gated = module.dcn.center_feature_scale_proj_weight is not None
    is_odd = cast(nn.Conv2d, module.dcn.dw_conv[0]).kernel_size[0] % 2 == module.dcn.kernel_size % 2 == 1
    if is_gated or not is_odd or first.in_features // module.dcn.groups % LANES:
        return False
    return first.in_features % LANES == 0 and first.out_features % LANES == 0


class InternImageFamily:
    """InternImage-T to -H, in `BACKBONES`."""

    listing: str = ", ".join(VARIANTS)
    supported: tuple[Setting, ...] = ("options",)
    markers: frozenset[str] = frozenset({"levels.0.blocks.0.dcn.offset.weight"})

    def provides(self, name: str) -> bool:
        """Return whether `name` is one of `VARIANTS`."""
        return name in VARIANTS

    def create(self, name: str, settings: BackboneSettings) -> InternImage:
        """Return the variant `name`."""
        return create_internimage(name, settings.options, settings.drop_path)

    def normalization(self, name: str) -> Normalization:
        """Return the same for every variant."""
        return IMAGENET

    def recognize(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return the variant with these channels and depths."""
        return recognize_variant(tensors, VARIANTS)


FAMILY = InternImageFamily()
