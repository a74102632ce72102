"""Scores of all levels of a taxonomy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from upernet.data.sample import Sample
from upernet.data.sources import Source
from upernet.decoding import Size, image_scores, resized_prediction
from upernet.errors import UpernetError
from upernet.evaluation.metrics import LabelScore, PixelScore, scores_are_probabilities
from upernet.evaluation.part_score import PartScore
from upernet.evaluation.photo_counts import Confusion, Kind
from upernet.evaluation.results import LevelMetrics
from upernet.recipe import MetricRules
from upernet.taxonomy import LEVEL_KINDS, Taxonomy


class Scores:
    """Scores of all levels of a taxonomy.

    Args:
        taxonomy: The taxonomy of the model.
        source: The scored source. It says how image labels train a level, and which classes its masks can show: means
            run over those, while all classes of the taxonomy compete. None: pooled supervision, and all classes.
        rules: How scores follow from what was counted.
    """

    def __init__(self, taxonomy: Taxonomy, source: Source | None = None, rules: MetricRules = "standard") -> None:
        self.taxonomy = taxonomy
        self.supervision = source.spec.supervision_by_level if source else {}
        self.merged = {
            level: torch.as_tensor(table) for level, table in (source.merged_labels() if source else {}).items()
        }
        owned = {name for name in taxonomy.levels if LEVEL_KINDS[name].owned_by}
        free = {name: level for name, level in taxonomy.levels.items() if name not in owned}
        self.pixels = {name: PixelScore(level, rules) for name, level in free.items() if LEVEL_KINDS[name].dense}
        self.labels = {name: LabelScore(level) for name, level in free.items()}
        self.parts = {name: PartScore(taxonomy, name, rules) for name in taxonomy.levels if name in owned}
        for level, labels in (source.scored_labels() if source else {}).items():
            {**self.pixels, **self.parts}[level].labels = labels

    def update(
        self,
        outputs: Mapping[str, Tensor],
        sample: Sample,
        implied: bool = False,
        via_sizes: Sequence[Size] = (),
        probabilities: bool = False,
    ) -> None:
        """Add one photo.

        Args:
            outputs: Logits or probabilities of this photo alone, at least for `annotated_levels(sample)`.
            sample: Its annotations. The outputs are resized to the size of its label maps.
            implied: Score the implied labels (`sample.implied`) instead of the annotated ones.
            via_sizes: Sizes that the outputs are resized to, one after another, before the size of the label map.
            probabilities: Whether the outputs are probabilities instead of logits.

        Raises:
            UpernetError: Parts are annotated but not the objects that own them.
        """
        scored = {name for name in (*sample.maps, *sample.labels) if (name in sample.implied) == implied}
        scored_parts = [name for name in self.parts if name in sample.maps and name in scored]
        owners = {LEVEL_KINDS[name].owned_by for name in scored_parts}
        predictions: dict[str, Tensor] = {}
        for name, mask in sample.maps.items():
            if name in self.pixels and (name in scored or name in owners):
                truth = mask.as_subclass(Tensor).to(outputs[name].device)
                size = (truth.shape[-2], truth.shape[-1])
                found = resized_prediction(outputs[name], size, via_sizes, probabilities)
                predictions[name] = found.labels
                if name in scored:
                    self.pixels[name].update(self._merge(name, found.labels), truth, found.confidence)
        for name in scored_parts:
            owner = LEVEL_KINDS[name].owned_by
            if owner is None or owner not in sample.maps:
                raise UpernetError(
                    f"{sample.key}: parts are annotated without the objects that own them; "
                    "add the objects to the source in the recipe, for example `implies: {object: {'*': person}}`."
                )
            device = outputs[name].device
            objects, parts = (sample.maps[level].as_subclass(Tensor).to(device) for level in (owner, name))
            merge = partial(self._merge, name)
            self.parts[name].update(outputs[name], predictions[owner], objects, parts, via_sizes, probabilities, merge)
        for name, label in sample.labels.items():
            if name in self.labels and name in scored:
                supervision = self.supervision.get(name, "pooled")
                averaged = scores_are_probabilities(outputs[name], supervision, probabilities)
                self.labels[name].update(image_scores(outputs[name], supervision), label, averaged)

    def _merge(self, level: str, labels: Tensor) -> Tensor:
        """Return what predicted labels count as; see `Source.merged_labels`."""
        table = self.merged.get(level)
        return labels if table is None else table.to(labels.device)[labels]

    def __iadd__(self, other: Scores) -> Scores:
        """Add the photos of `other`."""
        for name, score in other.pixels.items():
            self.pixels[name] += score
        for name, score in other.labels.items():
            self.labels[name] += score
        for name, score in other.parts.items():
            self.parts[name] += score
        return self

    def reduce(self) -> None:
        """Add up over all processes, in place; every process calls it once, in the same order."""
        for score in self._all():
            score.reduce()

    def confusions(self) -> dict[tuple[str, Kind], Confusion]:
        """Return what was counted, per level and kind of annotation, where anything was."""
        found: dict[tuple[str, Kind], Confusion] = {}
        for score in self._all():
            confusion = score.confusion()
            if confusion.matrix.counts.any():
                found[score.level.name, score.kind] = confusion
        return found

    def result(self) -> dict[str, LevelMetrics]:
        """Return the metrics of the levels that any photo annotates."""
        results: dict[str, LevelMetrics] = {}
        for name in self.taxonomy.levels:
            pixels, labels, parts = self.pixels.get(name), self.labels.get(name), self.parts.get(name)
            metrics = LevelMetrics(
                pixels=pixels.result() if pixels else None,
                labels=labels.result() if labels else None,
                parts=parts.result() if parts else None,
            )
            if metrics != LevelMetrics():
                results[name] = metrics
        return results

    def _all(self) -> Iterator[PixelScore | LabelScore | PartScore]:
        yield from self.pixels.values()
        yield from self.labels.values()
        yield from self.parts.values()
