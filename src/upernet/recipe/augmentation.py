"""Settings of the size of photos, and of the augmentation in training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from upernet.recipe.values import Pixels, Range, Share, Size
from upernet.settings import Name, Number, Settings, SettingsError, Whole

MAX_BATCH_PIXELS = 2**28
"""Pixels of the crops of a batch, over all processes: 3 GB of float32."""


class Resize(Settings):
    """The size of a photo before it goes through the network."""

    short_side: Pixels
    """Short side in pixels."""
    long_side: Pixels | None = None
    """Upper limit of the long side in pixels, which takes precedence over `short_side`."""
    multiple: Whole = Field(default=1, ge=1, le=1024)
    """Both sides are then stretched to the next multiple of this."""
    antialias: bool = True
    """Whether a photo is smoothed before it is reduced. The published ADE20K models use plain bilinear
    interpolation."""


class PublishedTesting(Settings):
    """How the published scores of a model were measured: probabilities averaged over several sizes of a photo."""

    short_sides: Annotated[tuple[Pixels, ...], Field(min_length=1, max_length=16)]
    """Short sides in pixels, one pass per side."""
    long_side: Pixels
    """Upper limit of the long side in pixels, which takes precedence over `short_sides`."""
    multiple: Whole = Field(default=1, ge=1, le=1024)
    """Both sides are stretched to the next multiple of this."""


class PasteSpec(Settings):
    """Copy-paste augmentation (Ghiasi et al., CVPR 2021) between photos of two sources, which label objects."""

    sources: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    """The sources of the other photo, one of which is drawn."""
    probability: Share = 0.5
    """Probability that a crop is pasted."""
    scale: Range | None = None
    """Range of the random resize factor of the other photo. None: that of its source."""


class Augmentation(Settings):
    """The augmentation of the training samples of a source, in this order."""

    short_side: Pixels | None = None
    """Short side in pixels before `scale`. None: the size of the photo."""
    long_side: Pixels | None = None
    """Upper limit of the long side in pixels, which takes precedence over `short_side`."""
    scale: Range = (0.5, 2.0)
    """Range of the random resize factor."""
    scale_distribution: Literal["log_uniform", "uniform"] = "log_uniform"
    """Whether the factor itself or its logarithm is uniform within `scale`."""
    antialias: bool = True
    """Whether a photo is smoothed before it is reduced."""
    crop: Size = (512, 512)
    """Height and width of the crop. Smaller photos are padded; the labels there are unknown."""
    max_class_share: Number = Field(default=1.0, gt=0, le=1)
    """A crop is sampled again, at most 10 times, if its most frequent class covers at least this fraction of its
    labeled pixels. 1: never."""
    flip: bool = True
    """Whether half of the crops are flipped horizontally."""
    paste: PasteSpec | None = None
    """Pastes the labeled objects of photos of other sources onto the crops. None: none."""
    paste_onto: PasteSpec | None = None
    """Cuts the labeled objects out of the crops and pastes them onto photos of other sources. None: not done."""
    photometric: Literal["none", "yiq", "hsv"] = "yiq"
    """Distortion of brightness, contrast, saturation and hue: as one affine map of RGB, or step by step in HSV as
    published for ADE20K."""

    @property
    def partners(self) -> tuple[str, ...]:
        """The sources whose photos are mixed with the crops."""
        specs = (self.paste, self.paste_onto)
        return tuple(dict.fromkeys(name for spec in specs if spec is not None for name in spec.sources))

    @model_validator(mode="after")
    def _limit_of_what(self) -> Augmentation:
        if self.long_side is not None and self.short_side is None:
            raise SettingsError("limits the long side when short_side is set; set short_side too", "long_side")
        return self


def check_batch_size(batch_size: int, augmentation: Augmentation, *location: str | int) -> None:
    """Check that the crops of a batch fit into a machine; `location` is where the recipe sets their size."""
    height, width = augmentation.crop
    if batch_size * height * width > MAX_BATCH_PIXELS:
        raise SettingsError(
            f"a batch of {batch_size} crops of {height} x {width} pixels is more than any machine trains on; lower "
            "batch_size or crop",
            *location,
        )
