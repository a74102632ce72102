"""InternImage (arXiv 2211.05778): a convolutional backbone whose mixing operator is DCNv3.

Parameters have the names of the published checkpoints. Inside, maps are N x H x W x C, as DCNv3 and the layer norms
want them; what comes out is N x C x H x W, without a copy (channels-last in memory).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from upernet.errors import UpernetError
from upernet.models.features import STRIDES, DropPath, Feature, FeatureInfo
from upernet.models.initialization import initialize
from upernet.models.layers import Linear
from upernet.ops import dcnv3, grouped_softmax, linear
from upernet.ops import mlp
from upernet.settings import Settings

Positive = Annotated[int, Field(ge=1, le=4096)]


class InternImageSpec(Settings):
    """What tells the variants apart (paper, table 1 and appendix)."""

    channels: int = Field(ge=2, le=4096, multiple_of=2)
    """Of C2; each further level has twice as many."""
    depths: tuple[Positive, Positive, Positive, Positive]
    """Blocks per level."""
    groups: tuple[Positive, Positive, Positive, Positive]
    """Groups of DCNv3 per level."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)
    layer_scale: float | None = 1.0
    """First value of the learned factor of each residual branch; None: no such factor."""
    offset_scale: float = 1.0
    post_norm: bool = False
    """Layer norms after the branch instead of before it."""
    res_post_norm: bool = False
    """Layer norms before and after the branch."""
    dw_kernel_size: int = Field(default=3, ge=1)
    """Of the depth-wise convolution that offsets and masks are computed from."""
    level2_post_norm_blocks: tuple[int, ...] = ()
    """Blocks of the third level that are followed by a layer norm."""
    center_feature_scale: bool = False
    """Mix each group's DCNv3 output with its input, by a learned gate."""

    @model_validator(mode="after")
    def _channels_are_grouped(self) -> InternImageSpec:
        for level, groups in enumerate(self.groups):
            if self.channels * 2**level % groups:
                raise ValueError(f"level {level}: {self.channels * 2**level} channels do not divide into {groups}")
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


def create_internimage(name: str, options: Mapping[str, Any], drop_path: float = 0.0) -> InternImage:
    """The variant `name`, one of `VARIANTS`, with `options` in place of its own values.

    Raises:
        UpernetError: an option that `InternImageSpec` does not have, or a value out of range.
    """
    try:
        spec = InternImageSpec.model_validate({**VARIANTS[name], "drop_path_rate": drop_path, **options})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UpernetError(f"backbone_options of {name}: {key} {first['msg']}; see InternImageSpec.") from None
    return InternImage(spec)


class InternImage(nn.Module):
    """N x 3 x H x W -> [C2, C3, C4, C5], N x C x h x w at strides 4, 8, 16, 32 (sides rounded up at each halving)."""

    def __init__(self, spec: InternImageSpec):
        super().__init__()
        self.spec = spec
        self.grad_checkpointing = False
        self.patch_embed = Stem(spec.channels)
        rates = torch.linspace(0, spec.drop_path_rate, sum(spec.depths), device="cpu").split(spec.depths)
        self.levels = nn.ModuleList(Level(spec, level, rates[level].tolist()) for level in range(4))
        self.feature_info = FeatureInfo(
            *(Feature(spec.channels * 2**level, STRIDES[level], f"levels.{level}") for level in range(4))
        )
        initialize(self, _initialize)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block for the backward pass, and compute the block again there."""
        self.grad_checkpointing = enable

    def layer_of(self, parameter: str) -> int:
        """Number of the layer that a parameter belongs to in the published layer-wise learning rates.

        0 is the stem; block j of the network is j + 1. What lies between two levels counts to the block after it, but
        the norm after the last level to that level's first block; `post_norms` count by their place in their list.
        """
        if parameter.startswith("patch_embed."):
            return 0
        _, level, kind, *rest = parameter.split(".")
        before = sum(self.spec.depths[: int(level)])
        if kind in ("blocks", "post_norms"):
            return before + int(rest[0]) + 1
        return sum(self.spec.depths[: min(int(level) + 1, 3)]) + 1

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images)
        features = []
        for level in self.levels:
            feature, x = level(x, self.grad_checkpointing and self.training)
            features.append(feature.permute(0, 3, 1, 2))
        return features


class ToChannelsLast(nn.Module):
    """N x C x H x W -> N x H x W x C."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class ToChannelsFirst(nn.Module):
    """N x H x W x C -> N x C x H x W."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def layer_norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


def norm_of_last(channels: int) -> nn.Sequential:
    """Layer norm of N x H x W x C, in a sequence as the published names have it."""
    return nn.Sequential(layer_norm(channels))


class Stem(nn.Module):
    """N x 3 x H x W -> N x H/4 x W/4 x C."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.norm1 = nn.Sequential(ToChannelsLast(), layer_norm(channels // 2), ToChannelsFirst())
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = nn.Sequential(ToChannelsLast(), layer_norm(channels))

    def forward(self, images: Tensor) -> Tensor:
        return self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(images)))))


class Downsample(nn.Module):
    """N x H x W x C -> N x H/2 x W/2 x 2C."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(ToChannelsLast(), layer_norm(2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class Level(nn.Module):
    """The blocks at one stride, then the way down to the next (but for the last level)."""

    def __init__(self, spec: InternImageSpec, index: int, drop_path_rates: list[float]):
        super().__init__()
        channels = spec.channels * 2**index
        self.blocks = nn.ModuleList(Block(spec, channels, spec.groups[index], rate) for rate in drop_path_rates)
        self.norm = None
        if not spec.post_norm or spec.center_feature_scale:
            self.norm = norm_of_last(channels)
        self.normed_blocks = spec.level2_post_norm_blocks if index == 2 else ()
        self.post_norms = None
        if self.normed_blocks:
            self.post_norms = nn.ModuleList(norm_of_last(channels) for _ in self.normed_blocks)
        self.downsample = Downsample(channels) if index < 3 else None

    def forward(self, x: Tensor, checkpointed: bool) -> tuple[Tensor, Tensor]:
        """N x H x W x C -> the feature of this level (same shape), and the input of the next."""
        for index, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)  # pyright: ignore
            if self.post_norms is not None and index in self.normed_blocks:
                x = self.post_norms[self.normed_blocks.index(index)](x)
        if self.norm is not None:
            x = self.norm(x)
        return x, x if self.downsample is None else self.downsample(x)


class Block(nn.Module):
    """x + dcn(x), then x + mlp(x), with layer norms and a learned scale where the variant has them."""

    def __init__(self, spec: InternImageSpec, channels: int, groups: int, drop_path: float):
        super().__init__()
        self.post_norm = spec.post_norm
        self.norm1 = norm_of_last(channels)
        self.dcn = DCNv3(channels, groups, spec.offset_scale, spec.dw_kernel_size, spec.center_feature_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = norm_of_last(channels)
        self.mlp = Mlp(channels, int(channels * spec.mlp_ratio))
        self.gamma1 = self.gamma2 = self.res_post_norm1 = self.res_post_norm2 = None
        if spec.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), spec.layer_scale))
            self.gamma2 = nn.Parameter(torch.full((channels,), spec.layer_scale))
        if spec.res_post_norm:
            self.res_post_norm1 = norm_of_last(channels)
            self.res_post_norm2 = norm_of_last(channels)

    def forward(self, x: Tensor) -> Tensor:
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
    """Two linear layers with GELU between: ... x C -> the same shape."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


class DCNv3(nn.Module):
    """DCNv3 with its projections: N x H x W x C -> the same shape (paper, section 3.1 and equation 2).

    Offsets (dx, dy per group and point) and masks (softmax over the points) come from a depth-wise convolution.
    """

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
        """Before training, every point lies on the grid and has the same weight (paper, section 4)."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
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
    """Linear layers as published; runs from the leaves up, so that DCNv3 has the last word on its own."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, DCNv3):
        module.reset_parameters()
