"""Test-time augmentation (TTA): several scales, mirrored photos, and sliding windows.

The arithmetic is that of mmsegmentation's test modes `whole` and `slide` and of its `--aug-test`, which the published
ADE20K scores were measured with. The sliding windows here serve that agreement: square windows of a given size and
stride, their logits averaged with equal weights at the size of the network's input. Those of
`upernet.inference.tiling` serve photos that are too large for memory: tiles blended smoothly at stride 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from upernet.data.sample import Sample
from upernet.data.transforms import resize as resize_sample
from upernet.decoding import Size, add_resized_probabilities, image_scores
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.ops import resize
from upernet.recipe import Resize, SourceSpec
from upernet.taxonomy import LEVEL_KINDS, Taxonomy

MIN_WINDOW = 32
"""Smallest side of a sliding window in pixels: the coarsest stride of a backbone."""


@dataclass(frozen=True)
class TestTimeAugmentation:
    """The forward passes that each photo goes through, and whose probabilities are averaged.

    Args:
        scales: Factors of the limits in a source's `test_resize`, or of the photo's own size if the source has none;
            one pass per scale.
        flip: Whether to add a pass over the mirrored photo at each scale.
        window: Side of the square sliding windows in pixels; None: the photo goes through whole. A side of the photo
            that is shorter than the window is not cut.
        stride: Distance between windows in pixels; None: two thirds of `window`.

    Raises:
        UpernetError: There are no scales, a scale is not a positive number, `window` is below 32, or `stride` is given
            without a window, is below 1, or is larger than the window.
    """

    __test__ = False  # the name starts with Test, but pytest must not collect it

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        """Check the values, and set the default stride."""
        if not self.scales:
            raise UpernetError("scales: the list is empty; give one or more factors, such as 0.5,1,1.5.")
        for scale in self.scales:
            if not 0 < scale < math.inf:
                raise UpernetError(f"scales: {scale:g} is not a positive number; give factors such as 0.5,1,1.5.")
        if self.window is None:
            if self.stride is not None:
                raise UpernetError(f"stride: {self.stride} has no effect without a window; set the window, too.")
            return
        if self.window < MIN_WINDOW:
            raise UpernetError(f"window: {self.window} pixels are too few; give {MIN_WINDOW} or more.")
        if self.stride is None:
            object.__setattr__(self, "stride", round(2 * self.window / 3))
        elif not 1 <= self.stride <= self.window:
            raise UpernetError(
                f"stride: {self.stride} pixels are not between 1 and the window's {self.window}, so that some pixels "
                f"would not be scored; give {round(2 * self.window / 3)}, for example."
            )

    @property
    def num_passes(self) -> int:
        """Number of forward passes over a photo, those over its windows counted as one."""
        return len(self.scales) * (1 + self.flip)

    @property
    def averages(self) -> bool:
        """Whether the outputs are averaged probabilities; those of a single pass are logits."""
        return self.num_passes > 1

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return {**asdict(self), "scales": list(self.scales)}


NO_AUGMENTATION = TestTimeAugmentation()
"""One pass over the whole photo."""


def photo_outputs(
    model: UPerNet, sample: Sample, spec: SourceSpec, device: str | torch.device, tta: TestTimeAugmentation
) -> tuple[dict[str, Tensor], tuple[Size, ...]]:
    """Compute what `Scores.update` needs of one photo, for the levels that it annotates.

    Returns:
        Outputs per level, and the sizes to resize them to before the size of the label map.

        * After a single pass: the logits, and the size of the network's input.
        * After several passes: the mean of their probabilities, and no further size. It has the size of the label map
          (1 x K x H x W; for parts, the probabilities of each object's parts add up to 1), or none for an image label
          (1 x K). Besides the mean, one map of its size exists at a time, and with sliding windows the logits of a
          pass at the size of the network's input.
    """
    levels = annotated_levels(sample)
    if not tta.averages:
        image = network_input(model, sample, spec.test_resize, device, tta.scales[0])
        return sliding_window_logits(model, image, levels, tta), (_size(image),)
    label_maps = {level: _size(label_map) for level, label_map in sample.maps.items() if LEVEL_KINDS[level].dense}
    means: dict[str, Tensor] = {}
    for logits, input_size, flipped in _passes(model, sample, spec, device, tta):
        for level in sample.labels:
            supervision = spec.supervision_by_level.get(level, "pooled")
            probabilities = _image_probabilities(logits[level], supervision) / tta.num_passes
            means[level] = means[level] + probabilities if level in means else probabilities
        for level, size in label_maps.items():
            if level not in means:
                means[level] = torch.zeros(1, logits[level].shape[1], *size, device=logits[level].device)
            for channels in _softmax_groups(model.taxonomy, level):
                own = logits[level][:, channels].flip(-1) if flipped else logits[level][:, channels]
                add_resized_probabilities(means[level][0, channels], own, (input_size,))
    for level in label_maps:
        means[level] /= tta.num_passes
    return means, ()


def annotated_levels(sample: Sample) -> tuple[str, ...]:
    """Return the levels whose logits are needed to score `sample`."""
    return tuple(dict.fromkeys([*sample.maps, *sample.labels]))


def network_input(
    model: UPerNet, sample: Sample, size: Resize | None, device: str | torch.device, scale: float = 1.0
) -> Tensor:
    """Resize and normalize the photo of `sample`: float32 1 x 3 x h x w.

    As in the published evaluation, the limits of both sides are scaled and rounded down to whole pixels, and the photo
    is then fitted into them.

    Args:
        model: Model whose normalization is used.
        sample: Photo of any size.
        size: Limits of the short and the long side; None: the photo's own sides.
        device: Device of the result.
        scale: Factor of the limits.
    """
    if size is None:
        short, long = sorted(_size(sample.image))
        size = Resize.model_construct(short_side=short, long_side=long)  # unchecked: photos may be a few pixels large
    limits = {"short_side": size.short_side, "long_side": size.long_side}
    scaled = {key: None if limit is None else max(1, int(limit * scale)) for key, limit in limits.items()}
    photo = resize_sample(replace(sample, maps={}), size.model_copy(update=scaled)).image
    return model.preprocess(photo.as_subclass(Tensor).to(device))[None]


def sliding_window_logits(
    model: UPerNet, image: Tensor, levels: Iterable[str], tta: TestTimeAugmentation
) -> dict[str, Tensor]:
    """Compute the logits of a normalized image in sliding windows, if `tta` has any and the image is larger.

    The logits of each window are resized to its size and averaged where windows overlap. Image-level logits (scene)
    come from the whole image in any case.

    Args:
        model: Model in eval mode.
        image: 1 x 3 x h x w.
        levels: Levels to compute.
        tta: Size and stride of the windows.

    Returns:
        level -> 1 x K x h/4 x w/4, or 1 x K x h x w if there were several windows; scene: 1 x K.
    """
    levels = tuple(levels)
    height, width = _size(image)
    if tta.window is None or tta.stride is None or max(height, width) <= tta.window:
        return model(image, levels=levels)
    image_levels = tuple(level for level in levels if not LEVEL_KINDS[level].dense)
    dense = tuple(level for level in levels if LEVEL_KINDS[level].dense)
    sums: dict[str, Tensor] = {}
    if image_levels:
        sums |= model(image, levels=image_levels)
    if not dense:
        return sums
    windows = torch.zeros(height, width, device=image.device)
    for rows in window_slices(height, tta.window, tta.stride):
        for columns in window_slices(width, tta.window, tta.stride):
            window = image[..., rows, columns]
            windows[rows, columns] += 1
            for level, logits in model(window, levels=dense).items():
                if level not in sums:
                    sums[level] = torch.zeros(1, logits.shape[1], height, width, device=logits.device)
                sums[level][..., rows, columns] += resize(logits.float(), _size(window))
    for level in dense:
        sums[level] /= windows
    return sums


def window_slices(length: int, window: int, stride: int) -> list[slice]:
    """Return the sliding windows along one side, which start every `stride` pixels; the last one ends with the side.

    Example:
        >>> window_slices(1024, 512, 341)
        [slice(0, 512, None), slice(341, 853, None), slice(512, 1024, None)]
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(index * stride + window, length) for index in range(count)]
    return [slice(max(end - window, 0), end) for end in ends]


def _passes(
    model: UPerNet, sample: Sample, spec: SourceSpec, device: str | torch.device, tta: TestTimeAugmentation
) -> Iterator[tuple[dict[str, Tensor], Size, bool]]:
    """Yield the logits of each pass, the size of its input, and whether the input was mirrored."""
    levels = annotated_levels(sample)
    for scale in tta.scales:
        image = network_input(model, sample, spec.test_resize, device, scale)
        for flipped in (False, True)[: 1 + tta.flip]:
            logits = sliding_window_logits(model, image.flip(-1) if flipped else image, levels, tta)
            yield logits, _size(image), flipped


def _image_probabilities(logits: Tensor, supervision: str) -> Tensor:
    """Return the class probabilities of a whole photo, 1 x K, from the scores of `image_scores`."""
    scores = image_scores(logits, supervision)[None]
    return scores if logits.ndim == 4 and supervision == "broadcast" else scores.softmax(dim=1)


def _softmax_groups(taxonomy: Taxonomy, level: str) -> list[slice]:
    """Return the groups of channels of `level` whose probabilities add up to 1."""
    owned = LEVEL_KINDS[level].owned_by is not None
    return [group.channels for group in taxonomy.part_groups] if owned else [slice(None)]


def _size(image: Tensor) -> Size:
    height, width = image.shape[-2:]
    return height, width
