"""Tiled inference on photos of any size, in bounded memory.

A photo within the pixel budget goes through the network in one pass; a larger one in overlapping tiles whose logits are
blended with smooth weights at stride 4. These tiles keep memory bounded; the sliding windows of
`upernet.evaluation.tta` reproduce the published evaluation, which averages with equal weights at full resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from upernet.decoding import STRIDE

MULTIPLE = 32
"""Coarsest stride of a backbone; the sides of network inputs are multiples of it."""
TILE = 768
OVERLAP = 128
"""Side of a tile, and smallest overlap of neighboring tiles, in pixels."""
PIXEL_BUDGET = 1024 * 1024
"""Largest number of pixels of one forward pass."""


class Network(Protocol):
    """Interface of the model, which `upernet.models.UPerNet` implements."""

    def preprocess(self, image: Tensor, /) -> Tensor:
        """Normalize images with pixel values in 0..255."""
        ...

    def __call__(self, images: Tensor, levels: Sequence[str], /) -> dict[str, Tensor]:
        """Compute logits per level of normalized images N x 3 x H x W."""
        ...


@torch.inference_mode()
def dense_logits(
    network: Network,
    photo: np.ndarray,
    levels: Sequence[str],
    device: torch.device | str = "cpu",
    *,
    pixel_budget: int = PIXEL_BUDGET,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> dict[str, Tensor]:
    """Compute the logits of dense levels for one photo.

    Args:
        network: Model that maps normalized images 1 x 3 x H x W to logits 1 x K x H/4 x W/4 per level.
        photo: uint8 H x W x 3, RGB, of any size from 1 x 1. The sides are padded to multiples of 32 by reflection.
        levels: Levels with one label per pixel.
        device: Device to compute on.
        pixel_budget: Largest number of pixels of one forward pass; photos with more are tiled.
        tile: Side of the tiles in pixels; a multiple of 32.
        overlap: Smallest overlap of neighboring tiles in pixels; a multiple of 32, less than `tile`.

    Returns:
        level -> float32 K x h x w on the CPU. Logit (i, j) covers photo pixels 4i to 4i+3, 4j to 4j+3; h and w are H/4
        and W/4, rounded up to multiples of 8.

    Raises:
        ValueError: `tile` and `overlap` do not fit.

    Example:
        >>> import numpy as np, upernet
        >>> model = upernet.create_model("everyday").eval()
        >>> photo = np.zeros((3, 500, 3), np.uint8)
        >>> dense_logits(model, photo, ["object"])["object"].shape[-2:]
        torch.Size([8, 128])
    """
    if tile % MULTIPLE or overlap % MULTIPLE or not 0 < overlap < tile:
        raise ValueError(f"tile {tile} and overlap {overlap} must be multiples of {MULTIPLE}, overlap below tile")
    padded = _pad(photo)
    height, width = padded.shape[:2]
    if height * width <= pixel_budget:
        return logits_of_batch(network, [photo], levels, device)[0]

    sums: dict[str, Tensor] = {}
    weights = torch.zeros(height // STRIDE, width // STRIDE)
    for rows, columns in tiles(height, width, tile, overlap):
        at = (..., _logit_slice(rows), _logit_slice(columns))
        logits = _run(network, padded[rows, columns], levels, device)
        window = _blending_weights(rows, overlap)[:, None] * _blending_weights(columns, overlap)
        weights[at] += window
        for level in levels:
            if level not in sums:
                sums[level] = torch.zeros(logits[level].shape[1], *weights.shape)
            sums[level][at] += logits[level][0].float().cpu() * window
    for total in sums.values():
        total /= weights
    return sums


@torch.inference_mode()
def logits_of_batch(
    network: Network, photos: Sequence[np.ndarray], levels: Sequence[str], device: torch.device | str = "cpu"
) -> list[dict[str, Tensor]]:
    """Compute the outputs for photos of one size in one pass.

    Args:
        network: As `dense_logits` takes it.
        photos: uint8 H x W x 3 each, RGB, within the pixel budget.
        levels: Levels, dense or not, and other outputs of the network with one value per image.
        device: Device to compute on.

    Returns:
        For each photo: level -> float32 K x h x w, or K, on the CPU.
    """
    images = torch.stack([_tensor(_pad(photo), device) for photo in photos])
    outputs = {level: values.float().cpu() for level, values in network(network.preprocess(images), levels).items()}
    return [{level: values[position] for level, values in outputs.items()} for position in range(len(photos))]


def fits_one_pass(photo: np.ndarray) -> bool:
    """Return whether `dense_logits` computes the logits of a photo in one pass."""
    height, width = _pad(photo).shape[:2]
    return height * width <= PIXEL_BUDGET


def tiles(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of evenly spread tiles that cover `height` x `width` pixels (multiples of 32).

    Example:
        >>> [(rows.start, columns.start) for rows, columns in tiles(256, 512, 256, 64)]
        [(0, 0), (0, 128), (0, 256)]
    """
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            yield slice(top, min(top + tile, height)), slice(left, min(left + tile, width))


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    return [i * (length - tile) // max(1, count - 1) // MULTIPLE * MULTIPLE for i in range(count)]


def _blending_weights(span: slice, overlap: int) -> Tensor:
    """Return the blending weights of a tile along one side: sin^2 over each overlap, 1 in between, never 0."""
    length, ramp = (span.stop - span.start) // STRIDE, overlap // STRIDE
    centers = torch.arange(length) + 0.5
    distance = torch.minimum(centers, length - centers).clamp(max=ramp)
    return torch.sin(distance / ramp * (math.pi / 2)) ** 2


def _pad(photo: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    return np.pad(photo, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)), mode="symmetric")


def _logit_slice(pixels: slice) -> slice:
    return slice(pixels.start // STRIDE, pixels.stop // STRIDE)


def network_image(photo: np.ndarray, device: torch.device | str) -> Tensor:
    """Return a photo as one pass over it takes it: uint8 H x W x 3 -> 3 x H x W, padded to multiples of 32."""
    return _tensor(_pad(photo), device)


def _run(network: Network, photo: np.ndarray, levels: Sequence[str], device: torch.device | str) -> dict[str, Tensor]:
    return network(network.preprocess(_tensor(photo, device))[None], levels)


def _tensor(photo: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(photo)).to(device).permute(2, 0, 1)
