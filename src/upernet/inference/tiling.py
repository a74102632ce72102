"""A network over a photo of any size, in bounded memory.

A photo within the pixel budget goes through in one pass; a larger one as overlapping tiles whose logits are blended
with a smooth window. Only logits at stride 4 are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

STRIDE = 4
"""Photo pixels per logit, in height and in width."""
MULTIPLE = 32
"""Coarsest stride of a backbone: what goes through the network has sides that it divides."""
TILE = 768
OVERLAP = 128
"""Side of a tile, and the least that two neighbours share, in pixels."""
PIXEL_BUDGET = 1024 * 1024
"""Largest number of pixels that go through in one pass."""


class Network(Protocol):
    """What is asked of a model: `upernet.models.UPerNet` has it."""

    def preprocess(self, image: Tensor, /) -> Tensor: ...
    def __call__(self, images: Tensor, levels: Sequence[str], /) -> dict[str, Tensor]: ...


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
    """Logits of the dense `levels` of one photo.

    Args:
        network: maps normalised images 1 x 3 x H x W and levels to logits 1 x K x H/4 x W/4 per level.
        photo: uint8 H x W x 3, RGB; any size from 1 x 1. Sides are filled up to multiples of 32 by reflection.
        tile, overlap: of photos with more than `pixel_budget` pixels; multiples of 32, `overlap` below `tile`.

    Returns:
        level -> float32 K x h x w on the CPU. Logit (i, j) belongs to photo pixels 4i to 4i+3, 4j to 4j+3; h and w are
        H/4 and W/4, rounded up to multiples of 8.

    Example:
        >>> import numpy as np, upernet
        >>> model = upernet.create_model("everyday").eval()
        >>> photo = np.zeros((3, 500, 3), np.uint8)
        >>> dense_logits(model, photo, ["object"])["object"].shape[-2:]
        torch.Size([8, 128])
    """
    if tile % MULTIPLE or overlap % MULTIPLE or not 0 < overlap < tile:
        raise ValueError(f"tile {tile} and overlap {overlap} must be multiples of {MULTIPLE}, overlap below tile")
    padded = _filled_up(photo)
    height, width = padded.shape[:2]
    if height * width <= pixel_budget:
        return {level: logits[0].float().cpu() for level, logits in _run(network, padded, levels, device).items()}

    sums: dict[str, Tensor] = {}
    weights = torch.zeros(height // STRIDE, width // STRIDE)
    for rows, columns in tiles(height, width, tile, overlap):
        at = (..., _logit_slice(rows), _logit_slice(columns))
        logits = _run(network, padded[rows, columns], levels, device)
        window = _ramps(rows, overlap)[:, None] * _ramps(columns, overlap)
        weights[at] += window
        for level in levels:
            if level not in sums:
                sums[level] = torch.zeros(logits[level].shape[1], *weights.shape)
            sums[level][at] += logits[level][0].float().cpu() * window
    for total in sums.values():
        total /= weights
    return sums


@torch.inference_mode()
def image_logits(network: Network, photo: np.ndarray, level: str, device: torch.device | str = "cpu") -> Tensor:
    """Logits of a level that labels the whole photo (scene): uint8 H x W x 3 -> float32 K on the CPU, in one pass."""
    return _run(network, _filled_up(photo), [level], device)[level][0].float().cpu()


def tiles(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles that cover `height` x `width` (multiples of 32), evenly spread.

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


def _ramps(span: slice, overlap: int) -> Tensor:
    """Weights of a tile's logits along one side: sin^2 up over the overlap, 1, and down again; never 0."""
    length, ramp = (span.stop - span.start) // STRIDE, overlap // STRIDE
    inside = torch.arange(length) + 0.5
    distance = torch.minimum(inside, length - inside).clamp(max=ramp)
    return torch.sin(distance / ramp * (math.pi / 2)) ** 2


def _filled_up(photo: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    return np.pad(photo, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)), mode="symmetric")


def _logit_slice(pixels: slice) -> slice:
    return slice(pixels.start // STRIDE, pixels.stop // STRIDE)


def _run(network: Network, photo: np.ndarray, levels: Sequence[str], device: torch.device | str) -> dict[str, Tensor]:
    image = torch.from_numpy(np.ascontiguousarray(photo)).to(device).permute(2, 0, 1)
    return network(network.preprocess(image)[None], levels)
