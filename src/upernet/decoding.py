"""Decoding of logits into labels, with parts inside the objects that own them.

Inference, evaluation and calibration all decode here, at the resolution that each of them needs:

* `predict` decodes logits where they are; calibration reads every stride-4 logit.
* `label_maps` resizes the logits once, from stride 4 to the size of the photo: the label maps of a `Parse`.
* `resized_prediction` resizes the logits to the size of the network's input and from there to the size of the
  annotation, as the published evaluation does; the two resizes give slightly different class boundaries than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upernet.ops import Axis, OwnedChannels, add_upsampled_probabilities, resize, upsampled_labels
from upernet.ops.upsampled.reference import interpolate, most_probable
from upernet.taxonomy import LEVEL_KINDS, PartGroup

STRIDE = 4
"""Photo pixels per logit, in height and in width."""
STRIP_VALUES = 1_000_000
"""Upper limit of the logits of one level that exist at photo size at a time."""

Size = tuple[int, int]
"""Height and width in pixels."""
LabelsAndConfidence = tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Passes:
    """The logits of one level from passes over the whole photo at several sizes; their mean probability counts.

    Wherever logits are resized to the size of a label map, the logarithms of the mean probabilities take their place.
    """

    logits: tuple[Tensor, ...]
    """K x h x w per pass, or K for levels with one label per image."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the logits of the first pass."""
        return self.logits[0].shape

    def __getitem__(self, channels: slice) -> Passes:
        """Return some channels, whose softmax is then taken by itself."""
        return Passes(tuple(logits[channels] for logits in self.logits))

    def __truediv__(self, temperature: float) -> Passes:
        """Return all logits divided by a temperature."""
        return Passes(tuple(logits / temperature for logits in self.logits))

    def log_mean(self, resample: Callable[[Tensor], Tensor] = torch.Tensor.float) -> Tensor:
        """Return the logarithm of the mean probabilities, after `resample` has brought all passes to one size."""
        total = sum(resample(logits).softmax(dim=0) for logits in self.logits)
        return (torch.as_tensor(total) / len(self.logits)).log()


Logits = Tensor | Passes
"""The logits of one level: K x h x w, from one pass or several."""


class Prediction(NamedTuple):
    """The most probable labels and their probabilities, both of the shape of the logits without the channels."""

    labels: Tensor
    """int64 labels; for parts, labels of the level `part`, 0 where the object has none."""
    confidence: Tensor
    """float32 softmax probabilities of the labels, in 0..1."""


def parts_within_owners(
    logits: Logits,
    owners: Prediction,
    part_groups: Sequence[PartGroup],
    resample: Callable[[Any], Tensor] = torch.Tensor.float,
) -> Prediction:
    """Return the most probable part of the predicted object at each pixel (arXiv 1807.10221, section 3.3).

    The softmax runs over the part logits of that object alone. Objects without parts get part 0 with the confidence of
    the object.

    Args:
        logits: part logits, K x h x w.
        owners: predicted objects, H x W.
        part_groups: the objects that own parts, and their channels in `logits`.
        resample: brings k x h x w logits to float32 k x H x W; called once per predicted object that owns parts.
    """
    labels, confidence = torch.zeros_like(owners.labels), owners.confidence.clone()
    for group in part_groups:
        owned = owners.labels == group.owner
        if owned.any():
            local, probability = most_probable(resample(logits[group.channels])[:, owned])
            labels[owned] = torch.tensor(group.parts, device=labels.device)[local]
            confidence[owned] = probability
    return Prediction(labels, confidence)


def predict(
    logits: Mapping[str, Logits],
    part_groups: Sequence[PartGroup] = (),
    resample: Callable[[Any], Tensor] = torch.Tensor.float,
) -> dict[str, Prediction]:
    """Return the most probable label of each pixel (scene: of the photo) and its probability, per level.

    Args:
        logits: level -> K x h x w (scene: K); `part` needs `object`, which owns it.
        part_groups: the objects that own parts.
        resample: brings logits to float32 and to the size of the result; by default, the size stays.
    """
    found: dict[str, Prediction] = {}
    for level, values in logits.items():
        if LEVEL_KINDS[level].owned_by is None:
            found[level] = Prediction(*most_probable(resample(values)))
    for level, values in logits.items():
        if owner := LEVEL_KINDS[level].owned_by:
            found[level] = parts_within_owners(values, found[owner], part_groups, resample)
    return found


@torch.inference_mode()
def label_maps(
    logits: Mapping[str, Logits], parsed_size: Size, size: Size, part_groups: Sequence[PartGroup] = ()
) -> dict[str, LabelsAndConfidence]:
    """Return the most probable label of each pixel and its probability, at photo size.

    The logits are resized once, bilinearly, and no map of all classes exists at photo size.
    Logits that belong to padding are left out of account.

    Args:
        logits: level -> float32 K x h x w on the CPU, as `upernet.inference.tiling.dense_logits` returns them; `part`
            needs `object`, which owns it. Or the `Passes` of each level.
        parsed_size: height and width of the photo that went through the network, without padding; `Passes` cover the
            whole photo, whatever it says.
        size: height and width of the label maps.
        part_groups: the objects that own parts.

    Returns:
        level -> (int16 H x W labels, float32 H x W probabilities in 0..1).
    """
    maps: dict[str, LabelsAndConfidence] = {
        level: (np.zeros(size, np.int16), np.zeros(size, np.float32)) for level in logits
    }
    if any(isinstance(values, Passes) for values in logits.values()):
        _label_strips(logits, parsed_size, size, part_groups, maps)
        return maps
    tensors = {level: tuple(map(torch.as_tensor, found)) for level, found in maps.items()}
    for level in sorted(logits, key=lambda level: LEVEL_KINDS[level].owned_by is not None):
        values, (labels, confidence), owners, groups = logits[level], tensors[level], None, ()
        assert isinstance(values, Tensor)
        if owner := LEVEL_KINDS[level].owned_by:
            owners, groups = tensors[owner][0], part_groups
            confidence.copy_(tensors[owner][1])
        rows = Axis(*interpolation(slice(0, size[0]), values.shape[1], parsed_size[0], size[0]))
        columns = Axis(*interpolation(slice(0, size[1]), values.shape[2], parsed_size[1], size[1]))
        owned = [OwnedChannels(group.owner, group.start, group.parts) for group in groups]
        upsampled_labels(values, rows, columns, labels, confidence, owners, owned)
    return maps


def _label_strips(
    logits: Mapping[str, Logits],
    parsed_size: Size,
    size: Size,
    part_groups: Sequence[PartGroup],
    maps: Mapping[str, LabelsAndConfidence],
) -> None:
    """Fill label maps in strips of rows, so that the logits of all classes exist for one strip at a time."""
    height, width = size
    strip = max(1, STRIP_VALUES // (max(values.shape[0] for values in logits.values()) * width))
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height))
        resample = partial(_resize_rows, rows=rows, parsed_size=parsed_size, size=size)
        for level, prediction in predict(logits, part_groups, resample).items():
            labels, confidence = maps[level]
            labels[rows] = prediction.labels.numpy()
            confidence[rows] = prediction.confidence.numpy()


@torch.inference_mode()
def class_probabilities(
    level: str,
    num_classes: int,
    logits: Mapping[str, Logits],
    parsed_size: Size,
    size: Size,
    part_groups: Sequence[PartGroup] = (),
) -> npt.NDArray[np.float16]:
    """Return the softmax probability of each class of a level at each pixel: float16 `num_classes` x H x W.

    For a level that another one owns, the softmax runs over the parts of the predicted object, as in
    `parts_within_owners`. Where the object has no parts, the first class has the probability of the object, and the
    others have 0.

    Args:
        level: the level.
        num_classes: number of its classes.
        logits: as `label_maps` takes them.
        parsed_size: as `label_maps` takes it.
        size: height and width of the result.
        part_groups: the objects that own parts.
    """
    height, width = size
    owner = LEVEL_KINDS[level].owned_by
    result = np.zeros((num_classes, *size), np.float16)
    strip = max(1, STRIP_VALUES // (max(values.shape[0] for values in logits.values()) * width))
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height))
        values = _resize_rows(logits[level], rows, parsed_size, size)
        if owner is None:
            result[:, rows] = values.softmax(dim=0).numpy()
            continue
        owners = Prediction(*most_probable(_resize_rows(logits[owner], rows, parsed_size, size)))
        result[0, rows] = owners.confidence.numpy()
        for group in part_groups:
            owned = owners.labels == group.owner
            local = values[group.channels][:, owned].softmax(dim=0).numpy()
            for part, probability in zip(group.parts, local, strict=True):
                result[part, rows][owned.numpy()] = probability
    return result


def resized_prediction(
    logits: Tensor, size: Size, via_sizes: Sequence[Size] = (), probabilities: bool = False
) -> Prediction:
    """Return the most probable labels of 1 x K x h x w logits, resized bilinearly, and their probabilities: H x W.

    Args:
        logits: logits or probabilities of one photo.
        size: height and width of the result.
        via_sizes: sizes that the logits are resized to first, one after another.
        probabilities: whether `logits` are probabilities already, so that the largest is the confidence.
    """
    if not logits.shape[1]:
        raise ValueError("logits without channels have no labels")
    if probabilities:
        confidence, labels = _resized(logits, (*via_sizes, size))[0].max(dim=0)
        return Prediction(labels, confidence)
    labels = torch.zeros(size, dtype=torch.int16, device=logits.device)
    confidence = torch.zeros(size, device=logits.device)
    for part, values, rows, columns in _last_resize(logits, size, via_sizes):
        upsampled_labels(values, rows, columns, labels[part], confidence[part])
    return Prediction(labels.long(), confidence)


def add_resized_probabilities(sums: Tensor, logits: Tensor, via_sizes: Sequence[Size] = ()) -> None:
    """Add the softmax of 1 x K x h x w logits, resized bilinearly, to `sums`, float32 K x H x W.

    Args:
        sums: changed in place.
        logits: logits of one photo.
        via_sizes: sizes that the logits are resized to first, one after another.
    """
    for part, values, rows, columns in _last_resize(logits, (sums.shape[1], sums.shape[2]), via_sizes):
        add_upsampled_probabilities(values, rows, columns, sums[:, part])


def _last_resize(logits: Tensor, size: Size, via_sizes: Sequence[Size]) -> Iterator[tuple[slice, Tensor, Axis, Axis]]:
    """Yield some rows of resized 1 x K x h x w logits at a time: what they are interpolated from, and how.

    Of the last of `via_sizes`, only the rows that the next rows of the result need are in memory.

    Yields:
        The rows, the float32 K x ... values that they are interpolated from, and the interpolation of rows and columns.
    """
    height, width = size
    steps = [step for step, _ in groupby((*via_sizes, size))]
    values = _resized(logits, steps[:-2])[0]
    if len(steps) == 1:
        whole = slice(0, height)
        yield whole, values, _axis(whole, values.shape[1], height), _axis(slice(0, width), values.shape[2], width)
        return
    parsed_height, parsed_width = steps[-2]
    parsed_columns = _axis(slice(0, parsed_width), values.shape[2], parsed_width)
    columns = _axis(slice(0, width), parsed_width, width)
    strip = max(1, STRIP_VALUES // (len(values) * width))
    for top in range(0, height, strip):
        part = slice(top, min(top + strip, height))
        rows = _axis(part, parsed_height, height)
        first, last = int(rows.first[0]), int(rows.second[-1])
        near = interpolate(values, _axis(slice(first, last + 1), values.shape[1], parsed_height), parsed_columns)
        yield part, near, Axis(rows.first - first, rows.second - first, rows.part), columns


def _resized(logits: Tensor, sizes: Sequence[Size]) -> Tensor:
    values = logits.float()
    for size in sizes:
        values = resize(values, size)
    return values


def _axis(pixels: slice, length: int, full: int) -> Axis:
    """Return how `pixels` of a side of `full` pixels are interpolated from `length` values along it."""
    return Axis(*interpolation(pixels, length, length * STRIDE, full))


def label_map(logits: Tensor, size: Size, via_sizes: Sequence[Size] = ()) -> Tensor:
    """Return the labels of the largest of 1 x K x h x w logits, resized bilinearly: int64 H x W.

    Args:
        logits: logits or probabilities of one photo.
        size: height and width of the label map.
        via_sizes: sizes that the logits are resized to first, one after another.
    """
    return resized_prediction(logits, size, via_sizes).labels


def image_scores(logits: Tensor, supervision: str = "pooled") -> Tensor:
    """Return one score per class for a whole photo: 1 x K x h x w, or 1 x K -> K.

    Args:
        logits: logits of one photo.
        supervision: how image labels trained a dense level. `pooled`: by the mean of the logits, which is then the
            score; `broadcast`: at every pixel, so that the score is the mean of the softmax probabilities.
    """
    if logits.ndim == 2:
        return logits[0].float()
    if supervision == "broadcast":
        return logits.float().softmax(dim=1).mean(dim=(2, 3))[0]
    return logits.float().mean(dim=(2, 3))[0]


def _resize_rows(logits: Logits, rows: slice, parsed_size: Size, size: Size) -> Tensor:
    """Resize K x h x w stride-4 logits bilinearly, and return these rows of the result: K x len(rows) x W.

    Pixel centers lie at half integers, and values at the edges are repeated, as in `torch.nn.functional.interpolate`.
    """
    if isinstance(logits, Passes):
        return logits.log_mean(lambda single: _resize_rows(single, rows, _covered(single), size))
    axes = (
        Axis(*interpolation(pixels, length, parsed, full))
        for pixels, length, parsed, full in zip(
            (rows, slice(0, size[1])), logits.shape[1:], parsed_size, size, strict=True
        )
    )
    return interpolate(logits, *axes)


def _covered(logits: Tensor) -> Size:
    """Return the height and width in pixels that K x h x w stride-4 logits cover."""
    height, width = logits.shape[-2:]
    return height * STRIDE, width * STRIDE


def interpolation(pixels: slice, length: int, parsed: int, full: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two neighboring logits of each pixel along one side, and the weight of the second.

    Args:
        pixels: pixels of the resized map.
        length: number of logits.
        parsed: pixels that went through the network.
        full: pixels of the whole resized map.
    """
    centers = torch.arange(pixels.start, pixels.stop, dtype=torch.float64) + 0.5
    position = (centers * (parsed / full / STRIDE) - 0.5).clamp(0, length - 1)
    lower = position.floor().long()
    return lower, (lower + 1).clamp(max=length - 1), (position - lower).float()
