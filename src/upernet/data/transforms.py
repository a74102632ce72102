"""Augmentation and resizing of samples. All randomness comes from the generator that is passed in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors  # pyright: ignore[reportMissingTypeStubs]
from torchvision.transforms.v2 import functional as F  # pyright: ignore[reportMissingTypeStubs]

from upernet.data.image_limits import MAX_PIXELS
from upernet.data.sample import Sample
from upernet.errors import UpernetError
from upernet.recipe import Augmentation, Resize
from upernet.taxonomy import IGNORE

PADDING = (124, 116, 104)
"""RGB of padded pixels: the mean of ImageNet, about zero after normalization."""


def augment(sample: Sample, spec: Augmentation, generator: torch.Generator) -> Sample:
    """Scale, crop, flip and distort one sample at random; all its label maps follow, its image labels stay as they are.

    The window of the photo that the crop will show is cut out first and then resized, so the cost is that of the crop
    and not of the enlarged photo. Photos smaller than the crop get borders of `PADDING` and of `IGNORE`, each divided
    at random between the two sides.

    `max_class_share` looks at the first map that is not implied; without such a map, the first crop is taken.

    Args:
        sample: Image uint8 3 x H x W, maps int16 H x W.
        spec: Ranges and the size of the crop.
        generator: The only source of randomness.

    Returns:
        A sample of the size `spec.crop`.
    """
    random = uniform(16, generator)
    height, width = sample.image.shape[-2:]
    scaled_height, scaled_width = _scaled_size(height, width, spec, random[0])
    top, rows, visible_rows, above, below = _window(height, scaled_height, spec.crop[0], random[1], random[2])
    left, columns, visible_columns, before, after = _window(width, scaled_width, spec.crop[1], random[3], random[4])
    labels = next((value for level, value in sample.maps.items() if level not in sample.implied), None)
    if spec.max_class_share < 1 and labels is not None:
        window, visible = (rows, columns), (visible_rows, visible_columns)
        top, left = _varied_corner(labels, (top, left), window, visible, spec.max_class_share, generator)

    image = F.resized_crop(
        sample.image,
        *(top, left, rows, columns),
        size=[visible_rows, visible_columns],
        interpolation=F.InterpolationMode.BILINEAR,
        antialias=spec.antialias,
    )
    maps = {
        level: _nearest(F.crop(value, top, left, rows, columns), visible_rows, visible_columns)
        for level, value in sample.maps.items()
    }
    if spec.flip and random[5] < 0.5:
        image = F.horizontal_flip(image)
        maps = {level: F.horizontal_flip(value) for level, value in maps.items()}
    if spec.photometric == "yiq":
        image = _photometric(image, random[6:14])
    elif spec.photometric == "hsv":
        image = _photometric_hsv(image, random[6:15])
    if above or below or before or after:
        border = [before, above, after, below]
        image = F.pad(image, border, fill=list(PADDING))
        maps = {level: F.pad(value, border, fill=IGNORE) for level, value in maps.items()}
    return replace(sample, image=tv_tensors.Image(image), maps=maps)


def resize(sample: Sample, size: Resize) -> Sample:
    """Resize a sample as `size` says: the image bilinearly, maps by the nearest pixel.

    Raises:
        UpernetError: A long, narrow photo would have more pixels than a photo may have.
    """
    height, width = sample.image.shape[-2:]
    factor = size.short_side / min(height, width)
    if size.long_side is not None:
        factor = min(factor, size.long_side / max(height, width))
    rows, columns = max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    if rows * columns > MAX_PIXELS:
        raise UpernetError(
            f"{sample.key}: would be enlarged from {width} x {height} to {columns} x {rows} pixels; set long_side, or "
            "remove the photo."
        )
    image, maps = sample.image, sample.maps
    for shape in (
        (rows, columns),
        (-(-rows // size.multiple) * size.multiple, -(-columns // size.multiple) * size.multiple),
    ):
        if shape != image.shape[-2:]:
            image = F.resize(image, list(shape), F.InterpolationMode.BILINEAR, antialias=size.antialias)
            maps = {level: _nearest(value, *shape) for level, value in maps.items()}
    return replace(sample, image=tv_tensors.Image(image), maps=maps)


def _scaled_size(height: int, width: int, spec: Augmentation, random: float) -> tuple[int, int]:
    """Return height and width of the whole photo after the random resize."""
    low, high = spec.scale
    scale = low + (high - low) * random if spec.scale_distribution == "uniform" else low * (high / low) ** random
    if spec.short_side is None:
        factor = scale
    elif spec.long_side is None:
        factor = scale * (spec.short_side / min(height, width))
    else:  # as published for ADE20K: the scaled limits are whole pixels, and halves are rounded up
        factor = min(
            int(spec.long_side * scale) / max(height, width), int(spec.short_side * scale) / min(height, width)
        )
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _window(size: int, scaled: int, crop: int, where: float, border: float) -> tuple[int, int, int, int, int]:
    """Return for one axis: start and length of the window, its length in the crop, borders before and after."""
    visible = min(crop, scaled)
    length = min(size, max(1, round(visible * size / scaled)))
    start = int(where * (size - length + 1))
    before = int(border * (crop - visible + 1))
    return start, length, visible, before, crop - visible - before


def _varied_corner(
    labels: Tensor,
    corner: tuple[int, int],
    window: tuple[int, int],
    visible: tuple[int, int],
    max_share: float,
    generator: torch.Generator,
) -> tuple[int, int]:
    """Return `corner` or, while one class has `max_share` or more of the labeled pixels, another one at random.

    At most 10 are drawn; the last of them is taken unchecked, as published for ADE20K.

    Args:
        labels: Labels of the whole photo, int16 H x W.
        corner: Top and left of the window in the photo.
        window, visible: Height and width of the window in the photo, and in the crop.
    """
    free = (labels.shape[0] - window[0] + 1, labels.shape[1] - window[1] + 1)
    draws = iter(uniform(20, generator))
    for down, right in zip(draws, draws, strict=True):
        top, left = corner
        shown = _nearest(labels[top : top + window[0], left : left + window[1]], *visible)
        counts = np.bincount(shown.numpy().ravel().clip(min=IGNORE) + 1)[1:]  # without unknown pixels
        if 0 < counts.max(initial=0) < max_share * counts.sum():
            break
        corner = int(down * free[0]), int(right * free[1])
    return corner


def uniform(count: int, generator: torch.Generator) -> list[float]:
    """Return numbers from 0 to 1, without 1."""
    return [float(value) for value in torch.rand(count, generator=generator, dtype=torch.float64)]


def _nearest(labels: Tensor, height: int, width: int) -> tv_tensors.Mask:
    """Resize by the nearest pixel center; unlike torchvision's NEAREST, this is not half a pixel off from bilinear."""
    rows, columns = labels.shape[-2:]
    if (rows, columns) == (height, width):
        return tv_tensors.Mask(labels)
    row = (np.arange(height) * 2 + 1) * rows // (2 * height)
    column = (np.arange(width) * 2 + 1) * columns // (2 * width)
    # Rows then columns in numpy: a seventh of the time of torch's indexing.
    return tv_tensors.Mask(torch.as_tensor(labels.numpy()[row].take(column, axis=1)))


_LUMA = torch.tensor([0.299, 0.587, 0.114])
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.inverse(_TO_YIQ)


def _photometric(image: Tensor, random: list[float]) -> tv_tensors.Image:
    """Distort brightness (+-32), contrast and saturation (0.5 to 1.5), hue (+-18 degrees); each with probability 1/2.

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


def _photometric_hsv(image: Tensor, random: list[float]) -> tv_tensors.Image:
    """Distort as published for ADE20K: brightness (+-32), contrast and saturation (0.5 to 1.5), hue (-18 to 17).

    Each has probability 1/2 and gives whole gray levels again: clipped to 0..255 and cut. Contrast comes before or
    after saturation and hue, which are steps of their own in HSV (hue in units of 2 degrees).
    """
    pixels = image.as_subclass(Tensor).numpy()
    contrast = 0.5 + random[3] if random[2] < 0.5 else None
    contrast_first = random[8] < 0.5
    if random[0] < 0.5:
        pixels = _linear(pixels, 1, 32 * (2 * random[1] - 1))
    if contrast is not None and contrast_first:
        pixels = _linear(pixels, contrast, 0)
    if random[4] < 0.5:
        pixels = _turn_in_hsv(pixels, 0.5 + random[5], 0)
    if random[6] < 0.5:
        pixels = _turn_in_hsv(pixels, 1, int(36 * random[7]) - 18)
    if contrast is not None and not contrast_first:
        pixels = _linear(pixels, contrast, 0)
    return tv_tensors.Image(torch.as_tensor(pixels))


def _linear(pixels: np.ndarray, factor: float, offset: float) -> np.ndarray:
    table = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return table.clip(0, 255).astype(np.uint8).take(pixels, mode="clip")


def _turn_in_hsv(pixels: np.ndarray, saturation: float, turn: int) -> np.ndarray:
    """Convert to HSV, multiply S by `saturation`, add `turn` to H, convert back; uint8 at every step, H in 0..179.

    The numbers are OpenCV's, which the published models were trained with: to HSV in fixed point with 12 bits, to RGB
    cut to whole levels (in 1 of 100 values OpenCV's own float error cuts one level more).

    Args:
        pixels: Colors, uint8 3 x H x W.
        turn: -18..18.
    """
    red, green, blue = pixels.astype(np.int16, order="C")
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    # Chroma times the hue in units of 60 degrees: red, green and blue lie at 0, 2 and 4.
    hue = _select(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    hue = _select(value == red, green - blue, hue)
    hue = _divide(hue, chroma, 30).astype(np.int16) + np.int16(turn)
    shade = np.minimum(_divide(chroma, value, 255) * np.float32(saturation), np.float32(255)).astype(np.int16)
    level = value.astype(np.float32) / np.float32(30 * 255)
    turned = np.empty_like(pixels)
    for channel, opposite in zip(turned, (90, 150, 30), strict=True):
        # What a channel loses of `value` grows from 60 to 30 units away from the opposite hue, and then stays constant.
        # The shorter way round suffices even where `hue` is not within 0..179.
        distance = np.abs(hue - np.int16(opposite))
        loss = (60 - np.minimum(distance, 180 - distance)).clip(0, 30)
        # Plus half of the smallest step, so that whole numbers are not cut to the one below.
        channel[:] = level * (30 * 255 - shade * loss) + np.float32(0.5 / (30 * 255))
    return turned


def _select(mask: npt.NDArray[np.bool_], chosen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Do the same as `np.where` for int16, in a fifth of the time on masks that change from pixel to pixel."""
    bits: npt.NDArray[np.int16] = -mask.astype(np.int16)
    return other ^ ((chosen ^ other) & bits)


def _divide(dividend: np.ndarray, divisor: np.ndarray, factor: int) -> np.ndarray:
    """Return `factor * dividend / divisor` rounded through a reciprocal with 12 fractional bits; 0 / 0 is 0."""
    reciprocal = np.rint(np.divide(np.float32(factor * 4096), np.maximum(divisor, 1).astype(np.float32)))
    return np.floor((dividend.astype(np.float32) * reciprocal + np.float32(2048)) * np.float32(1 / 4096))
