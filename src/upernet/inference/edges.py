"""Label maps whose class boundaries follow the edges of the photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from upernet.decoding import STRIDE, LabelsAndConfidence, interpolation
from upernet.ops import Axis, guided_labels
from upernet.taxonomy import LEVEL_KINDS, PartGroup

GUIDED = "fused"
"""The levels that read this map have the boundaries of things; materials and textures have none as sharp."""


@torch.inference_mode()
def follow_edges(
    maps: Mapping[str, LabelsAndConfidence],
    logits: Mapping[str, Tensor],
    photo: Image.Image,
    view: Image.Image,
    part_groups: Sequence[PartGroup] = (),
) -> None:
    """Let the boundaries of objects and parts follow the edges of the photo, in place.

    Pixels whose four surrounding logits have one label keep it.

    Args:
        maps: level -> labels and confidence, as `upernet.decoding.label_maps` returns them, at the size of the photo.
        logits: level -> float32 K x h x w, from which the maps were decoded.
        photo: The RGB photo.
        view: The photo as it went through the network.
        part_groups: The objects that own parts.
    """
    guided = [level for level in maps if LEVEL_KINDS[level].reads == GUIDED]
    if not guided:
        return
    cells = np.asarray(view.reduce(STRIDE), np.float32)
    rows = Axis(*interpolation(slice(0, photo.height), cells.shape[0], view.height, photo.height))
    columns = Axis(*interpolation(slice(0, photo.width), cells.shape[1], view.width, photo.width))
    scene = torch.as_tensor(cells), torch.as_tensor(np.array(photo)), rows, columns

    def guide(level: str, channels: slice, which: Tensor, names: Tensor) -> None:
        own = logits[level][channels, : cells.shape[0], : cells.shape[1]]
        probabilities = own.permute(1, 2, 0).softmax(dim=2).contiguous()
        labels, confidence = (torch.as_tensor(values) for values in maps[level])
        guided_labels(probabilities, *scene, which, names, labels, confidence)

    owning = {owner for level in guided if (owner := LEVEL_KINDS[level].owned_by)}
    before = {level: np.array(maps[level][0]) for level in owning}
    for level in sorted(guided, key=lambda level: LEVEL_KINDS[level].owned_by is not None):
        labels, confidence = maps[level]
        owner = LEVEL_KINDS[level].owned_by
        if owner is None:
            classes = torch.arange(logits[level].shape[0], dtype=torch.int16)
            guide(level, slice(None), torch.ones(labels.shape, dtype=torch.uint8), classes)
            continue
        owners, owners_confidence = maps[owner]
        changed = owners != before[owner]
        nobodys = ~np.isin(owners, [group.owner for group in part_groups])
        np.copyto(labels, np.int16(0), where=nobodys)
        np.copyto(confidence, owners_confidence, where=nobodys)
        for group in part_groups:
            owned = owners == group.owner
            if owned.any():
                which = torch.as_tensor(np.where(changed, np.uint8(2), np.uint8(1)) * owned)
                guide(level, group.channels, which, torch.tensor(group.parts, dtype=torch.int16))
