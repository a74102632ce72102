"""The photos that show what a model gets wrong, chosen by what was counted in them, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from upernet.data.sample import Sample
from upernet.data.sources import Source, open_source
from upernet.decoding import image_scores, predict
from upernet.evaluation.loop import eval_mode
from upernet.evaluation.metrics import class_probabilities, scores_are_probabilities
from upernet.evaluation.photo_counts import LevelCounts, Photo, PhotoCounts
from upernet.evaluation.pictures import draw_comparison, draw_label
from upernet.evaluation.subject import Subject
from upernet.evaluation.tta import NO_AUGMENTATION, TestTimeAugmentation, photo_outputs
from upernet.models import UPerNet
from upernet.ops import resize
from upernet.recipe import Split
from upernet.taxonomy import LEVEL_KINDS


def photo_accuracy(level: LevelCounts, photos: Sequence[int]) -> NDArray[np.float64]:
    """Return the share of the counted pixels that is right in each photo; with image labels, 1 or 0.

    Args:
        level: What was counted.
        photos: The photos, in the order of the result.
    """
    scored = level.scored_classes
    true, _, correct = level.totals(photos)[..., scored].sum(-1)
    return correct / np.maximum(true, 1)


def worst_photos(counts: PhotoCounts, level: LevelCounts, most: int) -> list[int]:
    """Return the photos with the smallest share of right pixels, the worst first; those without a mistake are left out.

    Args:
        counts: All photos.
        level: The level that decides.
        most: Largest number of photos.
    """
    photos = counts.scored(level)
    accuracy = photo_accuracy(level, photos)
    order = np.argsort(accuracy, kind="stable")[:most]
    return [photos[number] for number in order.tolist() if accuracy[number] < 1]


def typical_photos(counts: PhotoCounts, level: LevelCounts, most: int) -> list[int]:
    """Return the photos whose share of right pixels is next to the median.

    Args:
        counts: All photos.
        level: The level that decides.
        most: Largest number of photos.
    """
    photos = counts.scored(level)
    order = np.argsort(photo_accuracy(level, photos), kind="stable").tolist()
    first = max(0, (len(order) - most) // 2)
    return [photos[number] for number in order[first : first + most]]


def draw_photos(
    subject: Subject,
    split: Split,
    counts: PhotoCounts,
    level: LevelCounts,
    photos: Sequence[int],
    tta: TestTimeAugmentation = NO_AUGMENTATION,
) -> Iterator[tuple[Photo, Image.Image]]:
    """Run the model on some photos of an evaluation again, and draw truth and prediction.

    Args:
        subject: What was evaluated.
        split: Split that was scored.
        counts: All photos of the evaluation.
        level: The level to draw.
        photos: Which photos, as `worst_photos` and `typical_photos` return them.
        tta: Test-time augmentation of the evaluation.

    Yields:
        Each photo and its picture: a comparison of label maps or, with image labels, the photo with both labels.
    """
    model, device = subject.model, subject.device
    sources: dict[str, Source] = {}
    with eval_mode(model, device):
        for photo in (counts.photos[number] for number in photos):
            if photo.source not in sources:
                spec = subject.recipe.sources[photo.source]
                sources[photo.source] = open_source(
                    photo.source, spec, model.taxonomy, subject.data_dir, split, subject.recipe.sources
                )
            source = sources[photo.source]
            sample = source[photo.position]
            picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
            if level.kind == "labels":
                probabilities = _label_probabilities(model, sample, source, level.level, device, tta)
                yield photo, draw_label(picture, sample.labels[level.level], probabilities, level.names)
            else:
                labels = predicted_labels(model, sample, source, level.level, device, tta)
                truth = sample.maps[level.level].numpy()
                yield photo, draw_comparison(picture, truth, labels, model.taxonomy.level(level.level))


def predicted_labels(
    model: UPerNet,
    sample: Sample,
    source: Source,
    level: str,
    device: str | torch.device = "cpu",
    tta: TestTimeAugmentation = NO_AUGMENTATION,
) -> NDArray[np.int64]:
    """Return the predicted labels of a photo at the size of its label map: int64 H x W.

    Args:
        model: Model in eval mode.
        sample: The photo, with a map of `level` and of the level that owns it.
        source: Where it comes from.
        level: A dense level.
        device: Device to compute on.
        tta: Test-time augmentation.
    """
    outputs, via_sizes = photo_outputs(model, sample, source.spec, device, tta)
    height, width = sample.maps[level].shape[-2:]
    owner = LEVEL_KINDS[level].owned_by
    wanted = [level] if owner is None else [owner, level]
    resample = partial(_resized, sizes=(*via_sizes, (height, width)))
    found = predict({name: outputs[name][0] for name in wanted}, model.taxonomy.part_groups, resample)
    return found[level].labels.cpu().numpy()


def _resized(logits: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    values = logits[None].float()
    for size in sizes:
        values = resize(values, size)
    return values[0]


def _label_probabilities(
    model: UPerNet, sample: Sample, source: Source, level: str, device: str | torch.device, tta: TestTimeAugmentation
) -> NDArray[np.float64]:
    outputs, _ = photo_outputs(model, sample, source.spec, device, tta)
    supervision = source.spec.supervision_by_level.get(level, "pooled")
    are_probabilities = scores_are_probabilities(outputs[level], supervision, tta.averages)
    scores = image_scores(outputs[level], supervision)
    return class_probabilities(scores, model.taxonomy.level(level), are_probabilities).double().numpy()
