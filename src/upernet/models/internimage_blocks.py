"""What InternImage and FlashInternImage share: a stem and four stages of blocks, under the published names.

Inside, maps are N x H x W x C, the layout of deformable convolutions and of layer norms; the features are N x C x H x W
views of them (channels-last in memory).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from upernet.models.features import STRIDES, DropPath, Feature, FeatureInfo
from upernet.models.initialization import initialize
from upernet.models.protocol import ConvNormPair, count_blocks, num_filters
from upernet.ops import mlp
from upernet.settings import Number, Settings, Whole

Positive = Annotated[Whole, Field(ge=1, le=4096)]
MAX_PARAMETERS = 4_000_000_000
"""Largest network that is built; InternImage-G, the largest published one, has 3 billion parameters."""
STEM = "patch_embed.conv2.weight"


class BackboneSpec(Settings):
    """Hyperparameters of the stem, the stages and the blocks."""

    channels: Whole = Field(ge=2, le=4096, multiple_of=2)
    """Channels of the first stage; each further stage has twice as many."""
    depths: tuple[Positive, Positive, Positive, Positive]
    """Blocks per stage."""
    groups: tuple[Positive, Positive, Positive, Positive]
    """Groups of the deformable convolutions per stage."""
    mlp_ratio: Number = Field(default=4.0, gt=0, le=64)
    drop_path_rate: Number = Field(default=0.0, ge=0, lt=1)
    layer_scale: Annotated[Number, Field(ge=-1e6, le=1e6)] | None = 1.0
    """Initial value of the learned factor of each residual branch; None: no such factor."""
    offset_scale: Number = Field(default=1.0, ge=-1e6, le=1e6)
    post_norm: bool = False
    """Normalize after the residual branch instead of before it."""

    @model_validator(mode="after")
    def _channels_are_grouped(self) -> BackboneSpec:
        for stage, groups in enumerate(self.groups):
            channels = self.channels * 2**stage
            if channels % groups:
                raise ValueError(f"stage {stage}: {channels} channels cannot be divided into {groups} groups")
        # Per block, two matrices of the MLP and two of the deformable convolution.
        sizes = [depth * (self.channels * 2**stage) ** 2 for stage, depth in enumerate(self.depths)]
        parameters = sum(sizes) * (2 * self.mlp_ratio + 2)
        if parameters > MAX_PARAMETERS:
            raise ValueError(f"the network would have {parameters:.1e} parameters; lower channels or depths")
        return self


def recognize_variant(tensors: Mapping[str, Tensor], variants: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the one of `variants` that has the channels and depths of a state dict, or None."""
    named = {(variant["channels"], variant["depths"]): name for name, variant in variants.items()}
    return named.get((num_filters(tensors, STEM), count_blocks(tensors, r"levels\.(\d)\.blocks")))


class StagedBackbone(nn.Module):
    """A stem and four stages of blocks. It implements `upernet.models.backbones.Backbone`.

    Args:
        spec: the hyperparameters.
        create_block: makes a block from its channels, its groups and its rate of stochastic depth.
        final_norms: normalize the output of each stage.
        normed_blocks: blocks of the third stage that a layer norm follows.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        create_block: Callable[[int, int, float], Block],
        final_norms: bool,
        normed_blocks: Sequence[int] = (),
    ):
        super().__init__()
        self.depths = spec.depths
        self.grad_checkpointing = False
        self.patch_embed = Stem(spec.channels)
        linspace = cast(Any, torch.linspace(0, spec.drop_path_rate, sum(spec.depths), device="cpu"))
        rates = iter(cast(list[float], linspace.tolist()))
        self.levels = nn.ModuleList()
        for index, (depth, groups) in enumerate(zip(spec.depths, spec.groups, strict=True)):
            channels = spec.channels * 2**index
            blocks = [create_block(channels, groups, next(rates)) for _ in range(depth)]
            normed = normed_blocks if index == 2 else ()
            self.levels.append(Stage(channels, blocks, final_norms, normed, downsamples=index < 3))
        self.feature_info = FeatureInfo(
            *(Feature(spec.channels * 2**index, STRIDES[index], f"levels.{index}") for index in range(4))
        )
        initialize(self, _initialize)

    @property
    def num_layers(self) -> int:
        """Number of layers: the stem and each block."""
        return 1 + sum(self.depths)

    def layer_of(self, parameter: str) -> int:
        """Return the layer of a parameter, numbered as in the published layer-wise learning rates.

        The stem is layer 0 and block j of the network is layer j + 1. Parameters between two stages belong to the block
        that follows, but those of the norm after the last stage to that stage's first block; `post_norms` are numbered
        by their position in their list.
        """
        if parameter.startswith("patch_embed."):
            return 0
        _, stage, kind, *rest = parameter.split(".")
        before = sum(self.depths[: int(stage)])
        if kind in ("blocks", "post_norms"):
            return before + int(rest[0]) + 1
        return sum(self.depths[: min(int(stage) + 1, 3)]) + 1

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
        images = images.contiguous(memory_format=torch.channels_last)  # so that the layer norms need no copies
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

    def __init__(
        self, channels: int, blocks: Sequence[Block], final_norm: bool, normed_blocks: Sequence[int], downsamples: bool
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = channels_last_norm(channels) if final_norm else None
        self.normed_blocks = tuple(normed_blocks)
        self.post_norms = None
        if self.normed_blocks:
            self.post_norms = nn.ModuleList(channels_last_norm(channels) for _ in self.normed_blocks)
        self.downsample = Downsample(channels) if downsamples else None

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

    def __init__(
        self,
        channels: int,
        dcn: DeformableConvolution,
        mlp: Mlp,
        spec: BackboneSpec,
        drop_path: float,
        res_post_norm: bool = False,
    ):
        super().__init__()
        self.post_norm = spec.post_norm
        self.norm1 = channels_last_norm(channels)
        self.dcn = dcn
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = channels_last_norm(channels)
        self.mlp = mlp
        self.gamma1 = self.gamma2 = self.res_post_norm1 = self.res_post_norm2 = None
        if spec.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), spec.layer_scale))
            self.gamma2 = nn.Parameter(torch.full((channels,), spec.layer_scale))
        if res_post_norm:
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

    def __init__(self, channels: int, hidden: int, last_bias: bool = True):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels, bias=last_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the second layer."""
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


class DeformableConvolution(nn.Module):
    """A deformable convolution with its projections: N x H x W x C -> the same shape."""

    projections: ClassVar[tuple[str, ...]]
    """Names of the linear layers before and after the convolution."""
    sampling: ClassVar[tuple[str, ...]]
    """Names of the linear layers that compute offsets and masks."""

    def reset_parameters(self) -> None:
        """Initialize the projections, and let all offsets and masks be zero (InternImage, section 4)."""
        for name in self.sampling:
            layer = cast(nn.Linear, self.get_submodule(name))
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for name in self.projections:
            layer = cast(nn.Linear, self.get_submodule(name))
            nn.init.xavier_uniform_(layer.weight)
            if cast("Tensor | None", layer.bias) is not None:
                nn.init.zeros_(layer.bias)


def _initialize(module: nn.Module) -> None:
    """Initialize linear layers as published.

    `nn.Module.apply` visits children first, so a deformable convolution overrides what its own linear layers got.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if cast("Tensor | None", module.bias) is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, DeformableConvolution):
        module.reset_parameters()
