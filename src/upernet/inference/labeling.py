"""From logits at stride 4 to label maps in image size, a strip of rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from upernet.inference.tiling import STRIDE
from upernet.taxonomy import PartGroup

STRIP_VALUES = 1_000_000
"""Logits of one level that are held in image size at a time."""

LabelsAndConfidence = tuple[np.ndarray, np.ndarray]


@torch.inference_mode()
def label_maps(
    logits: Mapping[str, Tensor],
    parsed_size: tuple[int, int],
    size: tuple[int, int],
    part_groups: Sequence[PartGroup] = (),
) -> dict[str, LabelsAndConfidence]:
    """The most probable label of every pixel and its probability.

    A part is chosen among the parts of the object that is predicted there, by the softmax over that object's slice
    (arXiv 1807.10221, section 3.3). Objects without parts give part 0, which is as probable as the object.

    Args:
        logits: level -> float32 K x h x w, as `dense_logits` returns them; with `part`, `object` too.
        parsed_size: height and width of the photo that went through the network.
        size: height and width of the maps.

    Returns:
        level -> (int16 H x W labels, float32 H x W probabilities in 0..1).
    """
    height, width = size
    maps = {level: (np.zeros(size, np.int16), np.zeros(size, np.float32)) for level in logits}
    most_channels = max(x.shape[0] for x in logits.values())
    strip = max(1, STRIP_VALUES // (most_channels * width))
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height))
        for level, (labels, confidence) in maps.items():
            if level != "part":
                labels[rows], confidence[rows] = _most_probable(_upsample(logits[level], rows, parsed_size, size))
        if "part" in maps:
            labels, confidence = maps["part"]
            objects, object_confidence = maps["object"][0][rows], maps["object"][1][rows]
            confidence[rows] = object_confidence
            for group in part_groups:
                owned = objects == group.owner
                if owned.any():
                    channels = logits["part"][group.channels]
                    local, probability = _most_probable(_upsample(channels, rows, parsed_size, size)[:, owned])
                    labels[rows][owned] = np.asarray(group.parts, np.int16)[local]
                    confidence[rows][owned] = probability
    return maps


def _most_probable(logits: Tensor) -> LabelsAndConfidence:
    """K x ... -> labels and softmax probabilities of the largest logit."""
    largest, labels = logits.max(dim=0)
    probability = 1 / (logits - largest).exp_().sum(dim=0)
    return labels.numpy().astype(np.int16), probability.numpy()


def _upsample(logits: Tensor, rows: slice, parsed_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """K x h x w -> K x len(rows) x W: bilinear, pixel centres at half integers, edges repeated."""
    above, below, row_weight = _neighbours(rows, logits.shape[1], parsed_size[0], size[0])
    left, right, column_weight = _neighbours(slice(0, size[1]), logits.shape[2], parsed_size[1], size[1])
    first, last = int(above[0]), int(below[-1])
    few = logits[:, first : last + 1]
    wide = torch.lerp(few.index_select(2, left), few.index_select(2, right), column_weight)
    mix = torch.zeros(len(above), last + 1 - first)  # as a matrix product: several times faster than gathering rows
    line = torch.arange(len(above))
    mix[line, below - first] = row_weight
    mix[line, above - first] += 1 - row_weight
    return torch.matmul(mix, wide)


def _neighbours(pixels: slice, length: int, parsed: int, full: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one side: the two logits around each pixel of the full-size map, and the weight of the second."""
    centres = torch.arange(pixels.start, pixels.stop, dtype=torch.float64) + 0.5
    position = (centres * (parsed / full / STRIDE) - 0.5).clamp(0, length - 1)
    lower = position.floor().long()
    return lower, (lower + 1).clamp(max=length - 1), (position - lower).float()
