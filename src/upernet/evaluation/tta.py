"""How a photo goes through the network in testing: once, or at several scales, mirrored, in sliding windows.

The arithmetic is that of mmsegmentation's test modes `whole` and `slide` and of its `--aug-test`, which the scores
published for ADE20K were measured with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from upernet.data.sample import Sample
from upernet.data.transforms import resize
from upernet.errors import UpernetError
from upernet.evaluation.metrics import Size, image_scores, needed_levels, resized, resized_blocks
from upernet.models import UPerNet
from upernet.recipe import Resize, SourceSpec
from upernet.taxonomy import Taxonomy

LEAST_WINDOW = 32
"""The coarsest stride of a backbone."""
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Passes:
    """The passes of one photo through the network; the probabilities of several are averaged.

    Args:
        scales: a pass each: factors of the limits in a source's `test_resize` (without one: of the photo's own sides).
        flip: a mirrored pass more at each scale.
        window: side in pixels of the square windows in which a pass goes over the resized photo; None: the photo at
            once. A side of the photo that is shorter is taken whole.
        stride: pixels from one window to the next; None: two thirds of `window`.

    Raises:
        UpernetError: there is no scale or one that is not above 0; `window` is below 32; `stride` is without a window,
            below 1, or above `window`, which would leave gaps.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if not self.scales:
            raise UpernetError("scales: there are none; give one or more factors, for example 0.5,1,1.5.")
        for scale in self.scales:
            if not 0 < scale < math.inf:
                raise UpernetError(f"scales: {scale:g} is no size of a photo; give factors above 0, such as 0.5,1,1.5.")
        if self.window is None:
            if self.stride is not None:
                raise UpernetError(f"stride: {self.stride} is of no use without windows; give the window, too.")
            return
        if self.window < LEAST_WINDOW:
            raise UpernetError(f"window: {self.window} pixels are too few; give {LEAST_WINDOW} or more.")
        if self.stride is None:
            object.__setattr__(self, "stride", round(2 * self.window / 3))
        elif not 1 <= self.stride <= self.window:
            raise UpernetError(
                f"stride: {self.stride} pixels are not from 1 to the window's {self.window}; without gaps between the "
                f"windows every pixel is seen, for example with {round(2 * self.window / 3)}."
            )

    @property
    def count(self) -> int:
        return len(self.scales) * (1 + self.flip)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {**asdict(self), "scales": list(self.scales)}


def photo_outputs(
    model: UPerNet, sample: Sample, spec: SourceSpec, device: str | torch.device, passes: Passes
) -> tuple[dict[str, Tensor], tuple[Size, ...]]:
    """What `Scores.update` takes of one photo, for the levels that it annotates.

    Of a single pass: the logits, and the size of the network's input, through which they are brought to the size of the
    label map. Of several: the mean over the passes of the probabilities at the size of the label map (1 x K x H x W;
    part: per slice), or of the whole photo where it has an image label (1 x K). Beside that mean one more map of that
    size is alive at a time, and with windows the pass's logits at the size of the network's input.
    """
    levels = needed_levels(sample)
    if passes.count == 1:
        image = network_input(model, sample, spec.test_resize, device, passes.scales[0])
        return window_logits(model, image, levels, passes), (_size(image),)
    means: dict[str, Tensor] = {}
    for scale in passes.scales:
        image = network_input(model, sample, spec.test_resize, device, scale)
        for flipped in (False, True)[: 1 + passes.flip]:
            logits = window_logits(model, image.flip(-1) if flipped else image, levels, passes)
            for level in sample.labels:
                probabilities = _image_probabilities(logits[level], spec.supervision) / passes.count
                means[level] = means[level] + probabilities if level in means else probabilities
            for level in sample.maps.keys() - {"scene"}:  # which is of photos, and not scored by pixels
                size = _size(sample.maps[level])
                if level not in means:
                    means[level] = torch.zeros(1, logits[level].shape[1], *size, device=logits[level].device)
                for channels in _slices(model.taxonomy, level):
                    sizes = (_size(image), size)
                    _add_probabilities(means[level][0, channels], logits[level][:, channels], sizes, flipped)
    for level in sample.maps.keys() & means.keys():
        means[level] /= passes.count
    return means, ()


def network_input(
    model: UPerNet, sample: Sample, size: Resize | None, device: str | torch.device, scale: float = 1.0
) -> Tensor:
    """The photo of `sample`, resized to `scale` times `size` (None: its own) and normalised: float32 1 x 3 x h x w.

    As published, the limits of both sides are scaled and cut to whole pixels, and the photo is then fitted into them.
    """
    if size is None:
        short, long = sorted(_size(sample.image))
        size = Resize.model_construct(short_side=short, long_side=long)  # unchecked: a photo may be of a few pixels
    limits = {"short_side": size.short_side, "long_side": size.long_side}
    scaled = {key: None if limit is None else max(1, int(limit * scale)) for key, limit in limits.items()}
    photo = resize(replace(sample, maps={}), size.model_copy(update=scaled)).image
    return model.preprocess(photo.as_subclass(Tensor).to(device))[None]


def window_logits(model: UPerNet, image: Tensor, levels: Iterable[str], passes: Passes) -> dict[str, Tensor]:
    """Logits of normalised `image` 1 x 3 x h x w: 1 x K x h/4 x w/4; with more than one window 1 x K x h x w.

    A window's logits are brought to its size; where windows overlap the mean counts. The scene is that of the whole
    photo in any case.
    """
    levels = tuple(levels)
    height, width = _size(image)
    if passes.window is None or passes.stride is None or max(height, width) <= passes.window:
        return model(image, levels=levels)
    sums: dict[str, Tensor] = {}
    if "scene" in levels:
        sums |= model(image, levels=("scene",))
    dense = tuple(level for level in levels if level != "scene")
    if not dense:
        return sums
    windows = torch.zeros(height, width, device=image.device)
    for rows in spans(height, passes.window, passes.stride):
        for columns in spans(width, passes.window, passes.stride):
            window = image[..., rows, columns]
            windows[rows, columns] += 1
            for level, logits in model(window, levels=dense).items():
                if level not in sums:
                    sums[level] = torch.zeros(1, logits.shape[1], height, width, device=logits.device)
                sums[level][..., rows, columns] += resized(logits.float(), _size(window))
    for level in dense:
        sums[level] /= windows
    return sums


def spans(length: int, window: int, stride: int) -> list[slice]:
    """Windows along one side, `stride` apart from 0 on; the last is shifted back to end with the side.

    Example:
        >>> spans(1024, 512, 341)
        [slice(0, 512, None), slice(341, 853, None), slice(512, 1024, None)]
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(index * stride + window, length) for index in range(count)]
    return [slice(max(end - window, 0), end) for end in ends]


def _image_probabilities(logits: Tensor, supervision: str) -> Tensor:
    """1 x K of the whole photo, from 1 x K or 1 x K x h x w; as `image_scores` reads it."""
    scores = image_scores(logits, supervision)[None]
    return scores if logits.ndim == 4 and supervision == "broadcast" else scores.softmax(dim=1)


def _add_probabilities(total: Tensor, logits: Tensor, sizes: tuple[Size, ...], flipped: bool) -> None:
    """Add to `total`, K x H x W, the softmax of the logits 1 x K x h x w brought to each of `sizes` in turn."""
    full = torch.empty_like(total)
    for start, block in resized_blocks(logits, *sizes):
        full[start : start + len(block)] = block
    for top in range(0, full.shape[1], ROWS_AT_ONCE):
        strip = full[:, top : top + ROWS_AT_ONCE].softmax(dim=0)
        total[:, top : top + ROWS_AT_ONCE] += strip.flip(-1) if flipped else strip


def _slices(taxonomy: Taxonomy, level: str) -> list[slice]:
    """Channels that a softmax goes over."""
    return [group.channels for group in taxonomy.part_groups] if level == "part" else [slice(None)]


def _size(image: Tensor) -> Size:
    height, width = image.shape[-2:]
    return height, width
