"""Settings of the architecture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from upernet.recipe.values import Channels, OptionValue, PathText, Probability
from upernet.settings import Name, Number, Settings, Whole


class TextureSpec(Settings):
    """The texture head: `depth` 3x3 convolutions of `channels` on backbone features, gradient stopped (section 3.3)."""

    features: tuple[Literal["C2", "C3", "C4", "C5"], ...] = ("C2",)
    """The features; the first is C2, which sets the size of the logits."""
    channels: Channels = 128
    """Number of channels of each convolution."""
    depth: Whole = Field(default=4, ge=1, le=64)
    """Number of convolutions."""
    windows: tuple[Annotated[Whole, Field(ge=3, le=63)], ...] = Field(default=(), max_length=8)
    """Sides of windows, in pixels of the head. The means of the features over them join the features, through a 1x1
    convolution, before the classifier: a texture shows in the statistics of a region, not in its layout."""
    stride: Literal[4, 8] = 4
    """Photo pixels per pixel of the convolutions. 8: C2 is averaged over 2 x 2 pixels, and the logits are resized to
    stride 4, which takes a quarter of the time."""

    @field_validator("windows")
    @classmethod
    def _have_a_center(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if any(window % 2 == 0 for window in windows):
            raise ValueError("a window has a pixel in its middle; give odd numbers")
        return windows

    @field_validator("features")
    @classmethod
    def _starts_with_c2(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if features[:1] != ("C2",) or len(set(features)) < len(features):
            raise ValueError("must start with C2 and name no feature twice")
        return features


class ImageHeadSpec(Settings):
    """The heads of levels with one label per image, such as the scene."""

    features: Literal["PPM", "C5"] = "PPM"
    """The features: the output of the pyramid pooling module, through a 3x3 convolution (section 3.2), or C5, through a
    1x1 convolution. C5 knows more about the photo as a whole where the decoder is narrow."""
    channels: Channels | None = None
    """Number of channels of the convolution. None: `head_channels`."""


class ModelSpec(Settings):
    """The architecture. `backbone` is a name that `build_backbone` accepts; widths are numbers of channels."""

    backbone: Name
    """`internimage_{t,s,b,l,xl,h}`, `flash_internimage_{t,s,b,l}`, or a timm model with features at strides 4, 8, 16
    and 32."""
    backbone_options: dict[Name, OptionValue] = {}
    """Options that override those of the named backbone, if it has any (for InternImage: `InternImageSpec`)."""
    backbone_weights: PathText | None = "auto"
    """Source of the ImageNet weights: `timm` (which downloads them), `package:NAME` (a Python package), `zoo` (the
    published file of an InternImage backbone), or a file. `auto`: the first of these that is available, otherwise
    random weights. None: random weights."""
    drop_path: Probability = 0.0
    """Stochastic depth: probability that the last block of the backbone is skipped for a photo; linear from 0."""
    feature_norms: bool = False
    """Whether each of C2..C5 has a layer norm, as in mmsegmentation and transformers after Swin and ConvNeXt."""
    decoder_channels: Channels = 512
    """Number of channels of the decoder."""
    pool_scales: tuple[Annotated[Whole, Field(ge=1, le=64)], ...] = Field(default=(1, 2, 3, 6), max_length=16)
    """Sides of the grids that pyramid pooling averages over."""
    pool_channels: Channels | None = None
    """Number of channels of each convolved average of pyramid pooling. None: `decoder_channels`."""
    pooling: Literal["average", "precise"] = "average"
    """How pyramid pooling averages. `average`: over whole pixels of C5, resized after the ReLU, as in mmsegmentation.
    `precise`: over exact fractions of C5 (PrRoIPool, arXiv 1807.11590), resized before the ReLU, as in the released
    code of Unified Perceptual Parsing."""
    head_channels: Whole | None = Field(default=None, ge=0, le=2048)
    """Width of the 3x3 convolution in all heads but those on backbone features. None: that of the decoder. 0: only a
    classifier, as published for ADE20K."""
    image_head: ImageHeadSpec = ImageHeadSpec()
    """The head of the level `scene`."""
    texture: TextureSpec = TextureSpec()
    """The head of the level `texture`."""
    auxiliary_channels: Channels | None = 256
    """Width of the auxiliary FCN head on C4, which is only used in training. None: no such head."""
    dropout: Probability = 0.1
    """Probability that a channel is dropped before a classifier, in training."""
    initialization: Literal["he", "released"] = "he"
    """Random weights of the decoder and the heads. `he`: He's for convolutions, and biases of 0. `released`: as in the
    released code of Unified Perceptual Parsing, with biases of 1e-4 in batch norms and torch's biases elsewhere."""
    norm_momentum: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Share of a batch in the running averages of all batch norms. None: that of the backbone, and 0.1 elsewhere. If it
    is set, the first iterations of a training weigh as much as later ones, as in the released code of Unified
    Perceptual Parsing, so that a small share is right in short runs, too."""
