"""The published testing of a model: several sizes of each photo, whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from upernet.decoding import Passes
from upernet.inference.opencv_resize import resize_as_opencv
from upernet.inference.tiling import Network
from upernet.recipe import PublishedTesting


@torch.inference_mode()
def published_passes(
    network: Network,
    photo: np.ndarray,
    levels: Sequence[str],
    testing: PublishedTesting,
    device: torch.device | str = "cpu",
) -> dict[str, Passes]:
    """Compute the logits of a photo at each published size.

    Args:
        network: Model that maps normalized images 1 x 3 x H x W to logits per level.
        photo: uint8 H x W x 3, RGB.
        levels: Levels of any kind.
        testing: The sizes.
        device: Device to compute on.
    """
    found: dict[str, list[Tensor]] = {level: [] for level in levels}
    for size in input_sizes(photo.shape[0], photo.shape[1], testing):
        resized = torch.as_tensor(resize_as_opencv(photo, size)).to(device).permute(2, 0, 1)
        for level, logits in network(network.preprocess(resized)[None], levels).items():
            found[level].append(logits[0].float().cpu())
    return {level: Passes(tuple(logits)) for level, logits in found.items()}


def input_sizes(height: int, width: int, testing: PublishedTesting) -> list[tuple[int, int]]:
    """Return the height and width of the network's input in each pass.

    The photo is fitted into the limits of both sides, rounded down to whole pixels, and each side is then stretched to
    the next multiple.
    """
    short, long = sorted((height, width))
    sizes: list[tuple[int, int]] = []
    for side in testing.short_sides:
        factor = min(side / short, testing.long_side / long)
        fitted = (max(1, int(length * factor)) for length in (height, width))
        rows, columns = (-(-length // testing.multiple) * testing.multiple for length in fitted)
        sizes.append((rows, columns))
    return sizes
