"""FlashInternImage (arXiv 2401.06197): InternImage with DCNv4.

Parameters have the names of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from upernet.models.internimage_blocks import (
    BackboneSpec,
    Block,
    DeformableConvolution,
    Mlp,
    StagedBackbone,
    recognize_variant,
)
from upernet.models.layers import Linear
from upernet.models.protocol import IMAGENET, BackboneSettings, Normalization, OptionValue, Setting
from upernet.ops import dcnv4
from upernet.settings import Whole, check_settings

SAMPLING_MULTIPLE = 8
"""Offsets and masks of a pixel are padded to a multiple of this many numbers."""


class FlashInternImageSpec(BackboneSpec):
    """Hyperparameters that differ between the published configurations."""

    dw_kernel_size: Annotated[Whole, Field(ge=1, le=31)] | None = None
    """Kernel size of the depthwise convolution before the layer of the offsets and masks; None: there is none."""
    dcn_output_bias: bool = False
    """Whether the last projection of DCNv4 has a bias."""
    mlp_fc2_bias: bool = False
    """Whether the last layer of the MLP has a bias."""


SMALL: dict[str, Any] = {"post_norm": True, "dw_kernel_size": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "flash_internimage_t": {"channels": 64, "depths": (4, 4, 18, 4), "groups": (4, 8, 16, 32)},
    "flash_internimage_s": {"channels": 80, "depths": (4, 4, 21, 4), "groups": (5, 10, 20, 40), **SMALL},
    "flash_internimage_b": {
        "channels": 112,
        "depths": (4, 4, 21, 4),
        "groups": (7, 14, 28, 56),
        "offset_scale": 0.5,
        **SMALL,
    },
    "flash_internimage_l": {
        "channels": 160,
        "depths": (5, 5, 22, 5),
        "groups": (10, 20, 40, 80),
        "offset_scale": 2.0,
        "dcn_output_bias": True,
        "mlp_fc2_bias": True,
        **SMALL,
    },
}


def create_flash_internimage(name: str, options: Mapping[str, OptionValue], drop_path: float = 0.0) -> FlashInternImage:
    """Return the variant `name`, one of `VARIANTS`, with `options` replacing its own values.

    Raises:
        UpernetError: `FlashInternImageSpec` does not have an option, or a value is out of range.
    """
    values = {**VARIANTS[name], "drop_path_rate": drop_path, **options}
    return FlashInternImage(check_settings(values, FlashInternImageSpec, f"backbone_options of {name}"))


class FlashInternImage(StagedBackbone):
    """The feature extractor. It implements `upernet.models.backbones.Backbone`."""

    def __init__(self, spec: FlashInternImageSpec):
        def block(channels: int, groups: int, drop_path: float) -> Block:
            dcn = DCNv4(channels, groups, spec.offset_scale, spec.dw_kernel_size, spec.dcn_output_bias)
            mlp = Mlp(channels, int(channels * spec.mlp_ratio), spec.mlp_fc2_bias)
            return Block(channels, dcn, mlp, spec, drop_path)

        super().__init__(spec, block, final_norms=not spec.post_norm)
        self.spec = spec


class DCNv4(DeformableConvolution):
    """DCNv4 with its projections: N x H x W x C -> the same shape (paper, section 3.1).

    Offsets and masks come from the input, or from a depthwise convolution of it, by one linear layer. The masks are not
    normalized. A new network has masks of zero, as published, so its operators return zero at first.
    """

    projections = ("value_proj", "output_proj")
    sampling = ("offset_mask",)
    bfloat16_layers = (*projections, *sampling)

    def __init__(
        self,
        channels: int,
        groups: int,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        output_bias: bool = True,
        kernel_size: int = 3,
    ):
        super().__init__()
        self.groups = groups
        self.offset_scale = offset_scale
        self.kernel_size = kernel_size
        numbers = 3 * groups * kernel_size**2
        self.offset_mask_dw = None
        if dw_kernel_size is not None:
            self.offset_mask_dw = nn.Conv2d(
                channels, channels, dw_kernel_size, padding=(dw_kernel_size - 1) // 2, groups=channels
            )
        self.offset_mask = Linear(channels, numbers + -numbers % SAMPLING_MULTIPLE)
        self.value_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels, bias=output_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output projection of the sampled values."""
        query = x if self.offset_mask_dw is None else self.offset_mask_dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        size, around = self.kernel_size, self.kernel_size // 2
        y = dcnv4(
            self.value_proj(x),
            self.offset_mask(query),
            (size, size),
            padding=(around, around),
            groups=self.groups,
            offset_scale=self.offset_scale,
        )
        return self.output_proj(y)


class FlashInternImageFamily:
    """FlashInternImage-T to -L, in `BACKBONES`."""

    listing: str = ", ".join(VARIANTS)
    supported: tuple[Setting, ...] = ("options",)
    markers: frozenset[str] = frozenset({"levels.0.blocks.0.dcn.offset_mask.weight"})

    def provides(self, name: str) -> bool:
        """Return whether `name` is one of `VARIANTS`."""
        return name in VARIANTS

    def create(self, name: str, settings: BackboneSettings) -> FlashInternImage:
        """Return the variant `name`."""
        return create_flash_internimage(name, settings.options, settings.drop_path)

    def normalization(self, name: str) -> Normalization:
        """Return the same for every variant."""
        return IMAGENET

    def recognize(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return the variant with these channels and depths."""
        return recognize_variant(tensors, VARIANTS)


FAMILY = FlashInternImageFamily()
