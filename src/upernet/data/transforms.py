"""What happens to a sample before the network sees it. All randomness comes from the generator that is passed in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from upernet.data.sample import Sample
from upernet.recipe import Augmentation, Resize
from upernet.taxonomy import IGNORE

PADDING = (124, 116, 104)
"""RGB of padded pixels: the mean of ImageNet, about zero after normalisation."""


def augment(sample: Sample, spec: Augmentation, generator: torch.Generator) -> Sample:
    """Random scale, crop, flip and photometric distortion of one sample; its image labels stay as they are.

    The window of the photo that the crop will show is cut out first and then resized, so the cost is that of the crop
    and not of the enlarged photo. Photos smaller than the crop get borders of `PADDING` and of `IGNORE`.

    Args:
        sample: image uint8 3 x H x W, maps int16 H x W.
        spec: ranges and the size of the crop.
        generator: the only source of randomness.

    Returns:
        A sample of the size `spec.crop`.
    """
    random = torch.rand(16, generator=generator, dtype=torch.float64).tolist()
    height, width = sample.image.shape[-2:]
    low, high = spec.scale
    scale = low * (high / low) ** random[0]
    if spec.short_side is not None:
        scale *= spec.short_side / min(height, width)
    top, rows, visible_rows, above, below = _window(height, scale, spec.crop[0], random[1], random[2])
    left, columns, visible_columns, before, after = _window(width, scale, spec.crop[1], random[3], random[4])

    image = F.resized_crop(
        sample.image, top, left, rows, columns, [visible_rows, visible_columns], F.InterpolationMode.BILINEAR, True
    )
    maps = {
        level: _nearest(F.crop(value, top, left, rows, columns), visible_rows, visible_columns)
        for level, value in sample.maps.items()
    }
    if spec.flip and random[5] < 0.5:
        image = F.horizontal_flip(image)
        maps = {level: F.horizontal_flip(value) for level, value in maps.items()}
    if spec.photometric != "none":
        image = _photometric(image, random[6:14])
    if above or below or before or after:
        border = [before, above, after, below]
        image = F.pad(image, border, fill=list(PADDING))
        maps = {level: F.pad(value, border, fill=IGNORE) for level, value in maps.items()}
    return replace(sample, image=tv_tensors.Image(image), maps=maps)


def resize(sample: Sample, size: Resize) -> Sample:
    """The sample at the size that `size` says: image bilinear, maps by nearest pixel."""
    height, width = sample.image.shape[-2:]
    factor = size.short_side / min(height, width)
    if size.long_side is not None:
        factor = min(factor, size.long_side / max(height, width))
    rows, columns = max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    image, maps = sample.image, sample.maps
    for shape in (
        (rows, columns),
        (-(-rows // size.multiple) * size.multiple, -(-columns // size.multiple) * size.multiple),
    ):
        if shape != image.shape[-2:]:
            image = F.resize(image, list(shape), F.InterpolationMode.BILINEAR, antialias=size.antialias)
            maps = {level: _nearest(value, *shape) for level, value in maps.items()}
    return replace(sample, image=tv_tensors.Image(image), maps=maps)


def _window(size: int, scale: float, crop: int, where: float, border: float) -> tuple[int, int, int, int, int]:
    """Along one axis: start and length of the window in the photo, its length in the crop, borders before and after."""
    scaled = max(1, round(size * scale))
    visible = min(crop, scaled)
    length = min(size, max(1, round(visible * size / scaled)))
    start = int(where * (size - length + 1))
    before = int(border * (crop - visible + 1))
    return start, length, visible, before, crop - visible - before


def _nearest(labels: Tensor, height: int, width: int) -> tv_tensors.Mask:
    """Resize by the nearest pixel centre; unlike torchvision's NEAREST it is not off by half a pixel from bilinear."""
    rows, columns = labels.shape[-2:]
    if (rows, columns) == (height, width):
        return tv_tensors.Mask(labels)
    row = (np.arange(height) * 2 + 1) * rows // (2 * height)
    column = (np.arange(width) * 2 + 1) * columns // (2 * width)
    # Rows then columns in numpy: a seventh of the time of torch's indexing.
    return tv_tensors.Mask(torch.from_numpy(labels.numpy()[row].take(column, axis=1)))


_LUMA = torch.tensor([0.299, 0.587, 0.114])
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


def _photometric(image: Tensor, random: list[float]) -> tv_tensors.Image:
    """Brightness (+-32), contrast and saturation (0.5 to 1.5) and hue (+-18 degrees), each with probability 1/2.

    Each of the four is affine in RGB (hue as a rotation in YIQ), so together they are one 3 x 3 matrix and one offset:
    a few milliseconds less than four passes, and rounded once.
    """
    matrix, offset = torch.eye(3), torch.zeros(3)
    if random[0] < 0.5:
        offset = offset + 32 * (2 * random[1] - 1)
    if random[2] < 0.5:
        contrast = 0.5 + random[3]
        matrix, offset = matrix * contrast, offset * contrast
    if random[4] < 0.5:
        saturation = 0.5 + random[5]
        mix = saturation * torch.eye(3) + (1 - saturation) * _LUMA.expand(3, 3)
        matrix, offset = mix @ matrix, mix @ offset
    if random[6] < 0.5:
        angle = math.radians(18) * (2 * random[7] - 1)
        cosine, sine = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        hue = _FROM_YIQ @ turn @ _TO_YIQ
        matrix, offset = hue @ matrix, hue @ offset
    pixels = image.as_subclass(Tensor).reshape(3, -1).float()
    pixels = torch.addmm(offset[:, None] + 0.5, matrix, pixels).clamp_(0, 255).to(torch.uint8)
    return tv_tensors.Image(pixels.reshape(image.shape))
