"""The interfaces that a backbone and a family of backbones implement.

The rest of the package asks a backbone through these interfaces and never looks at its type. `docs/extending.md` shows
how to add a family.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

from upernet.models.features import FeatureInfo

OptionValue = int | float | bool | str | tuple[int, ...] | None
"""Value of one of a backbone's options, as recipes can write it."""

Setting = Literal["options", "feature_norms"]
"""Settings that not every family supports."""


class ConvNormPair(NamedTuple):
    """A convolution whose output goes to one batch norm and nowhere else, so that the norm can be folded into it."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    after: tuple[nn.Module, ...] = ()
    """Modules inside the norm that run after the normalization (timm's norms can contain the activation)."""


class Backbone(Protocol):
    """An `nn.Module` that maps N x 3 x H x W to [C2, C3, C4, C5], N x C x h x w at strides 4, 8, 16, 32.

    Odd sides are rounded up at each halving. Parameters belong to numbered layers, from 0 at the image to
    `num_layers - 1`; the decoder counts as layer `num_layers`. Layer-wise learning-rate decay multiplies the learning
    rate of a parameter by `layer_decay ** (num_layers - layer_of(parameter))`.
    """

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, stride and last module of each feature."""
        ...

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        ...

    def layer_of(self, parameter: str) -> int:
        """Return the layer of the parameter with this name; `num_layers` if it is to learn as fast as the decoder."""
        ...

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store fewer activations in training, and recompute them in the backward pass."""
        ...

    def foldable_pairs(self) -> Sequence[ConvNormPair]:
        """Return the convolutions and batch norms that inference can merge; the backbone is in eval mode."""
        ...


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel that a backbone's ImageNet weights expect."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    largest: float = 1.0
    """Value of the brightest pixel, in the units of the mean and the standard deviation."""
    channels: Literal["RGB", "BGR"] = "RGB"
    """Order of the channels, also of the mean and the standard deviation."""


IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class BackboneSettings:
    """Settings of a backbone besides its name."""

    options: Mapping[str, OptionValue] = field(default_factory=dict[str, OptionValue])
    """Values that replace those of the named variant."""
    drop_path: float = 0.0
    """Rate of stochastic depth at the last block; it rises linearly from 0."""
    feature_norms: bool = False
    """Add a layer norm to each feature."""


class BackboneFamily(Protocol):
    """Backbones that share an architecture. `upernet.models.backbones.BACKBONES` lists the families."""

    @property
    def listing(self) -> str:
        """Names of the family, or how to find them, for error messages."""
        ...

    @property
    def supported(self) -> Collection[Setting]:
        """Settings that the family implements; the others are refused before `create` is called."""
        ...

    @property
    def markers(self) -> Collection[str]:
        """Names of parameters, any of which shows that a state dict belongs to this family."""
        ...

    def provides(self, name: str) -> bool:
        """Return whether the family has a backbone of this name."""
        ...

    def create(self, name: str, settings: BackboneSettings) -> nn.Module:
        """Return the backbone, which implements `Backbone`."""
        ...

    def normalization(self, name: str) -> Normalization:
        """Return the normalization of the images that the backbone's ImageNet weights expect."""
        ...

    def recognize(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Return the name of the backbone that a state dict belongs to.

        It has one of the `markers`. None if it fits no backbone with a name.
        """
        ...


def count_blocks(names: Iterable[str], stage: str) -> tuple[int, ...]:
    """Return the number of blocks in each stage.

    Args:
        names: names of parameters.
        stage: pattern of the beginning of a name up to the block's number, with one group for the stage's.
    """
    matches = (re.match(rf"{stage}\.(\d+)\.", name) for name in names)
    blocks = {(int(match[1]), int(match[2])) for match in matches if match}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(other == stage for other, _ in blocks) for stage in stages)


def num_filters(tensors: Mapping[str, Tensor], name: str) -> int:
    """Return the length of the first axis of a tensor; 0 if it is missing or has no axes."""
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else 0
