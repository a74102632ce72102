"""Islands: tiny regions of a label map, which take the label of their surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from upernet.decoding import STRIDE, LabelsAndConfidence, Size
from upernet.inference.components import Runs, connected_runs
from upernet.inference.label_map import UNSURE
from upernet.taxonomy import LEVEL_KINDS, PartGroup

LARGEST_ISLAND = 1e-4
"""Share of the photo up to which a region is an island. Larger ones cost more mIoU (benchmarks/boundaries.py)."""
ELSEWHERE = -2
"""What pixels are called whose object has no parts, while islands of parts are looked for."""

Channels = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.int64]
"""Positions in a label map whose rows follow each other."""


def merge_islands(
    maps: Mapping[str, LabelsAndConfidence],
    logits: Mapping[str, Tensor],
    parsed_size: Size,
    part_groups: Sequence[PartGroup] = (),
    largest: float = LARGEST_ISLAND,
) -> None:
    """Give each island the label of a region beside it, in place: the one with the highest mean logit on the island.

    Unsure regions are islands, too, if they are small; an island that only has unsure surroundings becomes unsure.
    Islands of parts take a label of the object that they are in. Islands beside nothing but islands stay. The
    confidence of an island becomes the mean probability of its new label.

    Args:
        maps: level -> labels (-1: unsure) and confidence, as `upernet.decoding.label_maps` returns them.
        logits: level -> float32 K x h x w, from which the maps were decoded.
        parsed_size: Height and width of the photo that went through the network, without padding.
        part_groups: The objects that own parts.
        largest: Share of the photo up to which a region is an island.
    """
    merged: dict[str, Pixels] = {}
    for level in sorted(maps, key=lambda level: LEVEL_KINDS[level].owned_by is not None):
        labels, confidence = maps[level]
        values, owner = logits[level].numpy(), LEVEL_KINDS[level].owned_by
        if owner is None:
            merged[level] = _merge(labels, labels, confidence, values, parsed_size, largest)
            continue
        owners, owners_confidence = maps[owner]
        moved = merged[owner]
        owning = np.isin(np.take(owners, moved), [group.owner for group in part_groups])
        np.put(labels, moved, np.where(owning, UNSURE, 0))
        np.copyto(labels, np.int16(UNSURE), where=owners == UNSURE)
        np.put(confidence, moved, np.take(owners_confidence, moved))
        for group in part_groups:
            owned = owners == group.owner
            if owned.any():
                inside = np.where(owned, labels, np.int16(ELSEWHERE))
                _merge(inside, labels, confidence, values[group.channels], parsed_size, largest, group.parts)


def _merge(
    regions: npt.NDArray[np.int16],
    labels: npt.NDArray[np.int16],
    confidence: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    parsed_size: Size,
    largest: float,
    names: Sequence[int] | None = None,
) -> Pixels:
    """Merge the islands of one level, or of the parts of one object, and return the pixels that were changed.

    Args:
        regions: int16 H x W: the labels whose regions are looked at; `ELSEWHERE` is no island, and no surrounding.
        labels: int16 H x W, changed.
        confidence: float32 H x W, changed.
        logits: float32 K x h x w.
        parsed_size: See `merge_islands`.
        largest: See `merge_islands`.
        names: The label of each of the K channels. Default: its number.
    """
    runs = connected_runs(regions)
    areas = np.bincount(runs.components, runs.lengths)
    small = (areas[runs.components] <= largest * labels.size) & (runs.labels != ELSEWHERE)
    islands, surroundings = _neighbors(runs, small)
    if not len(islands):
        return np.zeros(0, np.int64)
    # The channel of each label; unsure, at the end, has none.
    channels = np.full(int(max(runs.labels.max(), *(names or [0]))) + 2, -1)
    if names is None:
        channels[:-1] = np.arange(len(channels) - 1)
    else:
        channels[list(names)] = np.arange(len(names))
    runs_of = np.flatnonzero(small)
    runs_of = runs_of[np.argsort(runs.components[runs_of], kind="stable")]
    numbers, first, counts = np.unique(runs.components[runs_of], return_index=True, return_counts=True)
    at = np.searchsorted(numbers, islands)
    pair = np.repeat(np.arange(len(islands)), counts[at])
    own = runs_of[np.repeat(first[at] - np.cumsum(counts[at]) + counts[at], counts[at]) + np.arange(len(pair))]
    y, x = _cells(runs, own, labels.shape, parsed_size)
    channel = channels[surroundings][pair]
    lengths = runs.lengths[own]
    score = np.bincount(pair, lengths * logits[np.maximum(channel, 0), y, x]) / np.bincount(pair, lengths)
    score[channels[surroundings] < 0] = -np.inf  # unsure, or no part of this object: only where nothing else is there
    order = np.lexsort((score, islands))
    best = order[np.append(islands[order][1:] != islands[order][:-1], True)]

    winner = np.full(len(areas), ELSEWHERE)
    winner[islands[best]] = surroundings[best]
    own = runs_of[winner[runs.components[runs_of]] != ELSEWHERE]
    new = winner[runs.components[own]]
    y, x = _cells(runs, own, labels.shape, parsed_size)
    at_cells = logits[:, y, x]
    exponentials = np.exp(at_cells - at_cells.max(axis=0))
    chosen = channels[new]
    probability = exponentials[np.maximum(chosen, 0), np.arange(len(own))] / exponentials.sum(axis=0)
    lengths = runs.lengths[own]
    pixels = np.repeat(runs.rows[own] * labels.shape[1] + runs.starts[own] - np.cumsum(lengths) + lengths, lengths)
    pixels += np.arange(len(pixels))
    np.put(labels, pixels, np.repeat(new, lengths))
    sure = np.repeat(chosen >= 0, lengths)
    np.put(confidence, pixels[sure], np.repeat(probability, lengths)[sure])
    return pixels


def _neighbors(runs: Runs, small: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the components of the islands, and the labels of the larger regions beside them, each pair once."""
    beside = np.flatnonzero(runs.rows[1:] == runs.rows[:-1])
    one, other = np.append(runs.touching[0], beside), np.append(runs.touching[1], beside + 1)
    mixed = np.flatnonzero(small[one] != small[other])
    one, other = one[mixed], other[mixed]
    island, surrounding = np.where(small[one], (one, other), (other, one))
    labels = runs.labels[surrounding]
    kept = labels != ELSEWHERE
    span = int(runs.labels.max()) - ELSEWHERE + 1
    pairs = np.unique(runs.components[island[kept]] * span + (labels[kept] - ELSEWHERE))
    return pairs // span, pairs % span + ELSEWHERE


def _cells(runs: Runs, chosen: Channels, size: Size, parsed_size: Size) -> tuple[Channels, Channels]:
    """Return row and column of the logits below the middle of each chosen run."""
    rows = (runs.rows[chosen] + 0.5) * (parsed_size[0] / size[0] / STRIDE)
    columns = (runs.starts[chosen] + runs.ends[chosen]) / 2 * (parsed_size[1] / size[1] / STRIDE)
    return rows.astype(np.int64), columns.astype(np.int64)
