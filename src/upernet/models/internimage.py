"""InternImage (arXiv 2211.05778): a convolutional backbone whose mixing operator is DCNv3.

Parameters have the names of the published checkpoints. Inside, maps are N x H x W x C, the layout of DCNv3 and of layer
norms; the features are N x C x H x W views of them (channels-last in memory).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from upernet.models.features import STRIDES, DropPath, Feature, FeatureInfo
from upernet.models.initialization import initialize
from upernet.models.layers import Linear
from upernet.models.protocol import (
    IMAGENET,
    BackboneSettings,
    ConvNormPair,
    Normalization,
    OptionValue,
    Setting,
    count_blocks,
    num_filters,
)
from upernet.ops import dcnv3, grouped_softmax, linear, mlp
from upernet.settings import Number, Settings, Whole, check_settings

Positive = Annotated[Whole, Field(ge=1, le=4096)]
MAX_PARAMETERS = 4_000_000_000
"""Largest network that is built; InternImage-G, the largest published one, has 3 billion parameters."""


class InternImageSpec(Settings):
    """Hyperparameters that differ between variants (paper, table 1 and appendix)."""

    channels: Whole = Field(ge=2, le=4096, multiple_of=2)
    """Channels of the first stage; each further stage has twice as many."""
    depths: tuple[Positive, Positive, Positive, Positive]
    """Blocks per stage."""
    groups: tuple[Positive, Positive, Positive, Positive]
    """Groups of DCNv3 per stage."""
    mlp_ratio: Number = Field(default=4.0, gt=0, le=64)
    drop_path_rate: Number = Field(default=0.0, ge=0, lt=1)
    layer_scale: Annotated[Number, Field(ge=-1e6, le=1e6)] | None = 1.0
    """Initial value of the learned factor of each residual branch; None: no such factor."""
    offset_scale: Number = Field(default=1.0, ge=-1e6, le=1e6)
    post_norm: bool = False
    """Normalize after the residual branch instead of before it."""
    res_post_norm: bool = False
    """Normalize before and after the residual branch."""
    dw_kernel_size: Whole = Field(default=3, ge=1, le=31)
    """Kernel size of the depthwise convolution that offsets and masks are computed from."""
    level2_post_norm_blocks: tuple[Annotated[Whole, Field(ge=0, le=4096)], ...] = ()
    """Blocks of the third stage ("level 2" in the published configurations) that a layer norm follows."""
    center_feature_scale: bool = False
    """Blend each group's DCNv3 output with its input by a learned gate."""

    @model_validator(mode="after")
    def _channels_are_grouped(self) -> InternImageSpec:
        for stage, groups in enumerate(self.groups):
            channels = self.channels * 2**stage
            if channels % groups:
                raise ValueError(f"stage {stage}: {channels} channels cannot be divided into {groups} groups")
        # Per block, two matrices of the MLP and two of DCNv3.
        sizes = [depth * (self.channels * 2**stage) ** 2 for stage, depth in enumerate(self.depths)]
        parameters = sum(sizes) * (2 * self.mlp_ratio + 2)
        if parameters > MAX_PARAMETERS:
            raise ValueError(f"the network would have {parameters:.1e} parameters; lower channels or depths")
        return self


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


class InternImage(nn.Module):
    """The feature extractor. It implements `upernet.models.backbones.Backbone`."""

    def __init__(self, spec: InternImageSpec):
        super().__init__()
        self.spec = spec
        self.grad_checkpointing = False
        self.patch_embed = Stem(spec.channels)
        linspace = cast(Any, torch.linspace(0, spec.drop_path_rate, sum(spec.depths), device="cpu"))
        rates = cast(list[float], linspace.tolist())
        first = [sum(spec.depths[:index]) for index in range(5)]
        self.levels = nn.ModuleList(Stage(spec, i, rates[first[i] : first[i + 1]]) for i in range(4))
        self.feature_info = FeatureInfo(
            *(Feature(spec.channels * 2**index, STRIDES[index], f"levels.{index}") for index in range(4))
        )
        initialize(self, _initialize)

    @property
    def num_layers(self) -> int:
        """Number of layers: the stem and each block."""
        return 1 + sum(self.spec.depths)

    def layer_of(self, parameter: str) -> int:
        """Return the layer of a parameter, numbered as in the published layer-wise learning rates.

        The stem is layer 0 and block j of the network is layer j + 1. Parameters between two stages belong to the block
        that follows, but those of the norm after the last stage to that stage's first block; `post_norms` are numbered
        by their position in their list.
        """
        if parameter.startswith("patch_embed."):
            return 0
        _, stage, kind, *rest = parameter.split(".")
        before = sum(self.spec.depths[: int(stage)])
        if kind in ("blocks", "post_norms"):
            return before + int(rest[0]) + 1
        return sum(self.spec.depths[: min(int(stage) + 1, 3)]) + 1

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the input of each block in training, and recompute the block in the backward pass."""
        self.grad_checkpointing = enable

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return no pair: layer norms cannot be folded."""
        return []

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return C2, C3, C4, C5 of `images`, N x 3 x H x W."""
        x = self.patch_embed(images)
        features: list[Tensor] = []
        for stage in self.levels:
            feature, x = stage(x, self.grad_checkpointing and self.training)
            features.append(feature.permute(0, 3, 1, 2))
        return features


class ToChannelsLast(nn.Module):
    """N x C x H x W -> N x H x W x C."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of `x`."""
        return x.permute(0, 2, 3, 1)


class ToChannelsFirst(nn.Module):
    """N x H x W x C -> N x C x H x W."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of `x`."""
        return x.permute(0, 3, 1, 2)


def layer_norm(channels: int) -> nn.LayerNorm:
    """Return a layer norm with the published epsilon."""
    return nn.LayerNorm(channels, eps=1e-6)


def channels_last_norm(channels: int) -> nn.Sequential:
    """Return a layer norm for N x H x W x C, inside a sequence for the sake of the published names."""
    return nn.Sequential(layer_norm(channels))


class Stem(nn.Module):
    """Two convolutions of stride 2: N x 3 x H x W -> N x H/4 x W/4 x C."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.norm1 = nn.Sequential(ToChannelsLast(), layer_norm(channels // 2), ToChannelsFirst())
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = nn.Sequential(ToChannelsLast(), layer_norm(channels))

    def forward(self, images: Tensor) -> Tensor:
        """Return the input of the first stage."""
        return self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(images)))))


class Downsample(nn.Module):
    """A convolution of stride 2 and a layer norm: N x H x W x C -> N x H/2 x W/2 x 2C."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(ToChannelsLast(), layer_norm(2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input of the next stage."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class Stage(nn.Module):
    """The blocks at one stride, and the downsampling to the next stage, which the last stage lacks."""

    def __init__(self, spec: InternImageSpec, index: int, drop_path_rates: list[float]):
        super().__init__()
        channels = spec.channels * 2**index
        self.blocks = nn.ModuleList(Block(spec, channels, spec.groups[index], rate) for rate in drop_path_rates)
        self.norm = None
        if not spec.post_norm or spec.center_feature_scale:
            self.norm = channels_last_norm(channels)
        self.normed_blocks = spec.level2_post_norm_blocks if index == 2 else ()
        self.post_norms = None
        if self.normed_blocks:
            self.post_norms = nn.ModuleList(channels_last_norm(channels) for _ in self.normed_blocks)
        self.downsample = Downsample(channels) if index < 3 else None

    def forward(self, x: Tensor, checkpointed: bool) -> tuple[Tensor, Tensor]:
        """Return the feature of this stage and the input of the next one.

        Args:
            x: N x H x W x C.
            checkpointed: recompute each block in the backward pass.
        """
        for index, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)  # pyright: ignore
            if self.post_norms is not None and index in self.normed_blocks:
                x = self.post_norms[self.normed_blocks.index(index)](x)
        if self.norm is not None:
            x = self.norm(x)
        return x, x if self.downsample is None else self.downsample(x)


class Block(nn.Module):
    """x + dcn(x), then x + mlp(x), with the layer norms and learned scales of the variant."""

    def __init__(self, spec: InternImageSpec, channels: int, groups: int, drop_path: float):
        super().__init__()
        self.post_norm = spec.post_norm
        self.norm1 = channels_last_norm(channels)
        self.dcn = DCNv3(channels, groups, spec.offset_scale, spec.dw_kernel_size, spec.center_feature_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = channels_last_norm(channels)
        self.mlp = Mlp(channels, int(channels * spec.mlp_ratio))
        self.gamma1 = self.gamma2 = self.res_post_norm1 = self.res_post_norm2 = None
        if spec.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), spec.layer_scale))
            self.gamma2 = nn.Parameter(torch.full((channels,), spec.layer_scale))
        if spec.res_post_norm:
            self.res_post_norm1 = channels_last_norm(channels)
            self.res_post_norm2 = channels_last_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, N x H x W x C."""
        x = self._add(x, self.dcn, self.norm1, self.res_post_norm1, self.gamma1)
        return self._add(x, self.mlp, self.norm2, self.res_post_norm2, self.gamma2)

    def _add(
        self, x: Tensor, module: nn.Module, norm: nn.Module, after: nn.Module | None, gamma: Tensor | None
    ) -> Tensor:
        y = norm(module(x)) if self.post_norm else module(norm(x))
        if gamma is not None:
            return torch.addcmul(x, gamma, self.drop_path(y))
        if after is not None and not self.post_norm:
            y = after(y)
        return x + self.drop_path(y)


class Mlp(nn.Module):
    """Two linear layers with a GELU in between: ... x C -> the same shape."""

    bfloat16_layers: ClassVar[tuple[str, ...]] = ("fc1", "fc2")

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the second layer."""
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


class DCNv3(nn.Module):
    """DCNv3 with its projections: N x H x W x C -> the same shape (paper, section 3.1 and equation 2).

    Offsets (dx, dy per group and point) and masks (softmax over the points) come from a depthwise convolution.
    """

    bfloat16_layers: ClassVar[tuple[str, ...]] = ("input_proj", "output_proj", "mask", "offset")

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

    def reset_parameters(self) -> None:
        """Initialize all sampling points on the grid, with equal weights (paper, section 4)."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

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


def _initialize(module: nn.Module) -> None:
    """Initialize linear layers as published.

    `nn.Module.apply` visits children first, so a DCNv3 overrides what its own linear layers got.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, DCNv3):
        module.reset_parameters()


STEM = "patch_embed.conv2.weight"


class InternImageFamily:
    """InternImage-T to -H, in `BACKBONES`."""

    listing: str = ", ".join(VARIANTS)
    supported: tuple[Setting, ...] = ("options",)
    markers: frozenset[str] = frozenset({STEM})

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
        named = {(variant["channels"], variant["depths"]): name for name, variant in VARIANTS.items()}
        return named.get((num_filters(tensors, STEM), count_blocks(tensors, r"levels\.(\d)\.blocks")))


FAMILY = InternImageFamily()
