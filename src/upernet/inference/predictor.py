"""What a network says of decoded photos: labels of the whole photo, familiarity, and label maps with unsure pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from upernet.checkpoints import ModelCard
from upernet.decoding import LabelsAndConfidence, Logits, Size, class_probabilities, label_maps
from upernet.inference.edges import follow_edges
from upernet.inference.islands import merge_islands
from upernet.inference.label_map import UNSURE, LabelMap
from upernet.inference.published import published_passes
from upernet.inference.resizing import image_view, image_view_size, reduced, reduced_size
from upernet.inference.runtimes import ExportedNetwork
from upernet.inference.tiling import dense_logits, fits_one_pass, logits_of_batch
from upernet.inference.video.smoothing import Smoother
from upernet.models import Precision, UPerNet, prepare_for_inference
from upernet.models.familiarity import FAMILIARITY
from upernet.ops import apply_thresholds
from upernet.ops.thresholds import Owners
from upernet.recipe import PublishedTesting
from upernet.taxonomy import LEVEL_KINDS

Rankings = dict[str, list[tuple[str, float]]]
"""Level with one label per photo -> its classes and their probabilities, most probable first."""
_ImageLabels = tuple[Rankings, "float | None"]


@dataclass(frozen=True)
class Prediction:
    """What a network says of one photo."""

    rankings: Rankings
    familiarity: float | None
    """How usual the features of the photo are, from 0 to 1; None: the model cannot tell."""
    maps: dict[str, LabelMap]
    """Level with one label per pixel -> its label map, in the size of the photo."""

    @property
    def is_finite(self) -> bool:
        """Whether all probabilities are finite."""
        ranked = (probability for ranking in self.rankings.values() for _, probability in ranking)
        return all(map(math.isfinite, ranked)) and all(
            bool(np.isfinite(found.confidence).all()) for found in self.maps.values()
        )


class Predictor:
    """One model on one device, from decoded photos to predictions.

    Args:
        model: The model, which is put into eval mode and moved to `device`.
        card: Its card, with thresholds and temperatures.
        device: The device.
        short_side: Short side in pixels to which larger photos are resized; None: they are tiled.
        precision: Precision of the products.
        calibration: For int8, images uint8 1 x 3 x H x W on which the ranges of numbers are observed.
        testing: The published testing; None: one size, and labels that follow the edges of the photo.

    Raises:
        UpernetError: The card names classes that the model does not have, or the device does not support `precision`.

    Attributes:
        thresholds: Level -> probability below which a label is unsure.
        class_thresholds: Level -> class -> the same, in place of the threshold of the level.
    """

    def __init__(
        self,
        model: UPerNet | ExportedNetwork,
        card: ModelCard,
        device: torch.device,
        short_side: int | None,
        precision: Precision,
        calibration: Sequence[torch.Tensor],
        testing: PublishedTesting | None,
    ) -> None:
        self.model = model.eval().to(device)
        self.card, self.device, self.short_side, self.testing = card, device, short_side, testing
        self._network = prepare_for_inference(
            self.model, precision, [self.model.preprocess(image.to(device)) for image in calibration]
        )
        self.thresholds: dict[str, float] = dict(card.thresholds)
        self.class_thresholds = {level: dict(values) for level, values in card.class_thresholds.items()}
        for level in self.model.taxonomy.levels:
            self._thresholds_of(level)

    def sizes_for(self, photo: Image.Image) -> tuple[object, ...]:
        """Return the sizes in which the network gets a photo; photos with equal ones can be predicted in one batch."""
        if self.testing is not None:
            return photo.size
        view = photo.size if self.short_side is None else reduced_size(photo.size, self.short_side)
        return view, view if self.card.published_testing is not None else image_view_size(photo.size)

    def predict(
        self,
        photos: Sequence[Image.Image],
        levels: Sequence[str],
        probabilities: bool = False,
        smoother: Smoother | None = None,
    ) -> list[Prediction]:
        """Predict upright RGB images whose `sizes_for` are equal, in as few passes through the network as possible.

        Arguments and errors are those of `run_network`.
        """
        return [finish() for finish in self.run_network(photos, levels, probabilities, smoother)]

    def run_network(
        self,
        photos: Sequence[Image.Image],
        levels: Sequence[str],
        probabilities: bool = False,
        smoother: Smoother | None = None,
    ) -> list[Callable[[], Prediction]]:
        """Run upright RGB images whose `sizes_for` are equal through the network.

        Args:
            photos: The images.
            levels: Levels of the model, in its order.
            probabilities: Whether the label maps keep the logits.
            smoother: Averages the logits with those of the frames before, if the images are frames of a video.

        Returns:
            For each photo, a function that makes the prediction of what the network has computed, in any thread.

        Raises:
            MemoryError, torch.OutOfMemoryError: The device has too little memory.
        """
        dense = [level for level in levels if LEVEL_KINDS[level].dense]
        of_photos = [level for level in levels if level not in dense]
        if (testing := self.testing) is not None:
            return [partial(self._published, photo, of_photos, dense, testing, probabilities) for photo in photos]
        labels = self._image_labels(photos, of_photos, smoother)
        if not dense:
            return [partial(Prediction, *named, {}) for named in labels]
        views = [self._view(photo) for photo in photos]
        logits = self._logits(views, _with_owners(dense), smoother)
        return [
            partial(self._prediction, *seen, dense, probabilities)
            for seen in zip(photos, views, labels, logits, strict=True)
        ]

    def _image_labels(
        self, photos: Sequence[Image.Image], levels: Sequence[str], smoother: Smoother | None = None
    ) -> list[_ImageLabels]:
        """Return for each photo the ranked classes of the levels with one label per photo, and its familiarity."""
        judged = [] if self.model.familiarity is None else [FAMILIARITY]
        if not levels and not judged:
            return [({}, None) for _ in photos]
        in_view = image_view if self.card.published_testing is None else self._view
        views = [in_view(photo) for photo in photos]
        batch = logits_of_batch(self._network, list(map(np.asarray, views)), [*levels, *judged], self.device)
        labels: list[_ImageLabels] = []
        for view, outputs in zip(views, batch, strict=True):
            if smoother is not None:
                outputs |= smoother.image_labels({level: outputs[level] for level in levels}, view)
            rankings = {
                level: self._ranking(level, (outputs[level] / self.card.temperatures.get(level, 1)).softmax(dim=0))
                for level in levels
            }
            labels.append((rankings, float(outputs[FAMILIARITY]) if judged else None))
        return labels

    def _ranking(self, level: str, probabilities: torch.Tensor) -> list[tuple[str, float]]:
        named = zip(self.model.taxonomy.levels[level].names, map(float, probabilities.unbind()), strict=True)
        return sorted(named, key=lambda pair: -pair[1])

    def _view(self, photo: Image.Image) -> Image.Image:
        """Return the photo at the size at which it goes through the network."""
        return photo if self.short_side is None else reduced(photo, self.short_side)

    def _logits(
        self, views: Sequence[Image.Image], levels: Sequence[str], smoother: Smoother | None
    ) -> list[dict[str, Tensor]]:
        arrays = [np.asarray(view) for view in views]
        if len(arrays) > 1 and fits_one_pass(arrays[0]):
            logits = logits_of_batch(self._network, arrays, levels, self.device)
        else:
            logits = [dense_logits(self._network, array, levels, self.device) for array in arrays]
        if smoother is not None:
            logits = [smoother.dense(found, view) for found, view in zip(logits, views, strict=True)]
        return logits

    def _prediction(
        self,
        photo: Image.Image,
        view: Image.Image,
        labels: _ImageLabels,
        logits: dict[str, Tensor],
        levels: Sequence[str],
        probabilities: bool,
    ) -> Prediction:
        taxonomy = self.model.taxonomy
        logits = {level: values / self.card.temperatures.get(level, 1) for level, values in logits.items()}
        sizes = (view.height, view.width), (photo.height, photo.width)
        found = label_maps(logits, *sizes, taxonomy.part_groups)
        follow_edges(found, logits, photo, view, taxonomy.part_groups)
        self._hide_unsure(found)
        merge_islands(found, logits, sizes[0], taxonomy.part_groups)
        return Prediction(*labels, self._label_maps(photo, levels, found, logits if probabilities else None, sizes))

    def _published(
        self,
        photo: Image.Image,
        image_levels: Sequence[str],
        dense: Sequence[str],
        testing: PublishedTesting,
        probabilities: bool,
    ) -> Prediction:
        """Predict a photo by the published testing."""
        wanted = [*image_levels, *_with_owners(dense)]
        passes = published_passes(self._network, np.asarray(photo), wanted, testing, self.device)
        for level, temperature in self.card.temperatures.items():
            if level in passes:
                passes[level] /= temperature
        rankings = {level: self._ranking(level, passes.pop(level).log_mean().exp()) for level in image_levels}
        familiarity = self._image_labels([photo], ())[0][1]
        if not dense:
            return Prediction(rankings, familiarity, {})
        size = photo.height, photo.width
        found = label_maps(passes, size, size, self.model.taxonomy.part_groups)
        self._hide_unsure(found)
        maps = self._label_maps(photo, dense, found, passes if probabilities else None, (size, size))
        return Prediction(rankings, familiarity, maps)

    def _label_maps(
        self,
        photo: Image.Image,
        levels: Sequence[str],
        found: Mapping[str, LabelsAndConfidence],
        logits: Mapping[str, Logits] | None,
        sizes: tuple[Size, Size],
    ) -> dict[str, LabelMap]:
        """Return the maps of a `Parse`, which compute probabilities from `logits`, if there are any."""
        taxonomy = self.model.taxonomy
        maps: dict[str, LabelMap] = {}
        for name in levels:
            level = taxonomy.levels[name]
            compute = None
            if logits is not None:
                read = {key: logits[key] for key in (name, LEVEL_KINDS[name].owned_by) if key}
                compute = partial(class_probabilities, name, len(level.names), read, *sizes, taxonomy.part_groups)
            maps[name] = LabelMap(name, *found[name], level.names, level.colors, level.background, photo, compute)
        return maps

    def _hide_unsure(self, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Set labels below their threshold to -1, and with an unsure object its parts.

        At a level with a known background, they become background: such a level shows only what it is sure of.
        """
        taxonomy = self.model.taxonomy
        for level in sorted(found, key=lambda level: LEVEL_KINDS[level].owned_by is not None):
            labels, confidence = map(torch.as_tensor, found[level])
            known_background, owners = taxonomy.levels[level].known_background, None
            if owner := LEVEL_KINDS[level].owned_by:
                judged = torch.full((taxonomy.levels[owner].num_classes,), known_background)
                judged[[group.owner for group in taxonomy.part_groups]] = True
                owners = Owners(torch.as_tensor(found[owner][0]), judged)
            below = 0 if known_background else UNSURE
            apply_thresholds(labels, confidence, torch.as_tensor(self._thresholds_of(level)), below, owners)

    def _thresholds_of(self, level: str) -> np.ndarray:
        """Return the threshold of each label of a level: float32 K."""
        classes = self.model.taxonomy.levels[level]
        thresholds = np.full(classes.num_classes, self.thresholds.get(level, 0), np.float32)
        for name, value in self.class_thresholds.get(level, {}).items():
            thresholds[classes.index(name)] = value
        return thresholds


def _with_owners(levels: Sequence[str]) -> list[str]:
    """Return the levels, and those that own them."""
    owners = (LEVEL_KINDS[level].owned_by for level in levels)
    return [*levels, *(owner for owner in owners if owner and owner not in levels)]
