"""ResNet and ResNeXt with a deep stem, as in the released code of Unified Perceptual Parsing (arXiv 1807.10221).

Three 3x3 convolutions replace the 7x7 convolution of the original stem, and the first block reads 128 channels.
Parameter names are the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from upernet.models.features import STRIDES, DropPath, Feature, FeatureInfo
from upernet.models.initialization import initialize
from upernet.models.protocol import BackboneSettings, ConvNormPair, Normalization, Setting, count_blocks, num_filters

STEM_CHANNELS = (64, 64, 128)
CHANNELS = (256, 512, 1024, 2048)
"""Channels of C2, C3, C4 and C5."""
NORMALIZATION = Normalization(mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0), largest=255.0, channels="BGR")
"""The published weights take pixels in 0..255 in the order BGR, minus the mean."""


@dataclass(frozen=True)
class DeepResNetSpec:
    """One variant."""

    blocks: tuple[int, int, int, int]
    """Number of blocks in each stage."""
    expansion: int
    """Output channels of a block, divided by the channels of its 3x3 convolution."""
    groups: int
    """Groups of the 3x3 convolutions."""


VARIANTS: dict[str, DeepResNetSpec] = {
    "resnet50_deep": DeepResNetSpec((3, 4, 6, 3), expansion=4, groups=1),
    "resnet101_deep": DeepResNetSpec((3, 4, 23, 3), expansion=4, groups=1),
    "resnext101_deep": DeepResNetSpec((3, 4, 23, 3), expansion=2, groups=32),
}


class DeepResNet(nn.Module):
    """The feature extractor. It implements `upernet.models.backbones.Backbone`.

    Args:
        spec: Depth and width.
        drop_path: Rate of stochastic depth at the last block; it rises linearly from 0 at the first.
    """

    def __init__(self, spec: DeepResNetSpec, drop_path: float = 0.0):
        super().__init__()
        self.grad_checkpointing = False
        first, second, third = STEM_CHANNELS
        self.conv1, self.bn1 = _conv(3, first, 3, stride=2), nn.BatchNorm2d(first)
        self.conv2, self.bn2 = _conv(first, second, 3), nn.BatchNorm2d(second)
        self.conv3, self.bn3 = _conv(second, third, 3), nn.BatchNorm2d(third)
        total, channels, built = sum(spec.blocks), third, 0
        for number, (blocks, out_channels) in enumerate(zip(spec.blocks, CHANNELS, strict=True), start=1):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if block == 0 and number > 1 else 1
                stage.append(Bottleneck(channels, out_channels, spec, stride, drop_path * built / total))
                channels, built = out_channels, built + 1
            self.add_module(f"layer{number}", stage)
        self.feature_info = FeatureInfo(
            *(Feature(CHANNELS[i], stride, f"layer{i + 1}") for i, stride in enumerate(STRIDES))
        )
        self._blocks = spec.blocks
        initialize(self, _initialize)

    @property
    def num_layers(self) -> int:
        """Number of layers: the stem and each block."""
        return 1 + sum(self._blocks)

    def layer_of(self, parameter: str) -> int:
        """Return the layer of a parameter: 0 for the stem, j + 1 for block j of the network."""
        stage, *rest = parameter.split(".")
        if not stage.startswith("layer"):
            return 0
        return 1 + sum(self._blocks[: int(stage.removeprefix("layer")) - 1]) + int(rest[0])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the input of each block in training, and recompute the block in the backward pass."""
        self.grad_checkpointing = enable

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return every convolution with its batch norm."""
        pairs = [
            ConvNormPair(conv, norm)
            for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3))
        ]
        for module in self.modules():
            if isinstance(module, Bottleneck):
                pairs.extend(module.foldable_pairs())
        return pairs

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return C2, C3, C4, C5 of `images`, N x 3 x H x W."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features: list[Tensor] = []
        for stage in (self.get_submodule(f"layer{number}") for number in range(1, 5)):
            for block in stage.children():
                checkpointed = self.grad_checkpointing and self.training
                x = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)  # pyright: ignore
            features.append(x)
        return features


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 (with the stride) and a 1x1 convolution, each with batch norm, plus the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, spec: DeepResNetSpec, stride: int, drop_path: float):
        super().__init__()
        width = out_channels // spec.expansion
        self.conv1, self.bn1 = _conv(in_channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride, spec.groups), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
        self.drop_path = DropPath(drop_path)

    def foldable_pairs(self) -> list[ConvNormPair]:
        """Return each convolution with its batch norm."""
        pairs = [
            ConvNormPair(conv, norm)
            for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3))
        ]
        if self.downsample is not None:
            conv, norm = self.downsample
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            pairs.append(ConvNormPair(conv, norm))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block for `x`, N x C x H x W."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.drop_path(self.bn3(self.conv3(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class DeepResNetFamily:
    """ResNet-50, ResNet-101 and ResNeXt-101 with a deep stem, in `BACKBONES`."""

    listing: str = ", ".join(VARIANTS)
    supported: tuple[Setting, ...] = ()
    markers: frozenset[str] = frozenset({"conv3.weight"})  # the last convolution of the stem

    def provides(self, name: str) -> bool:
        """Return whether `name` is a variant."""
        return name in VARIANTS

    def create(self, name: str, settings: BackboneSettings) -> DeepResNet:
        """Return the variant `name`."""
        return DeepResNet(VARIANTS[name], settings.drop_path)

    def normalization(self, name: str) -> Normalization:
        """Return the same for every variant."""
        return NORMALIZATION

    def recognize(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return the variant with this many blocks and channels."""
        blocks, width = count_blocks(tensors, r"layer(\d)"), num_filters(tensors, "layer1.0.conv1.weight")
        names = (
            name for name, spec in VARIANTS.items() if (spec.blocks, CHANNELS[0] // spec.expansion) == (blocks, width)
        )
        return next(names, None)


FAMILY = DeepResNetFamily()
