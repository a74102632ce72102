"""Results of an evaluation: typed metrics per level, and the JSON that `upernet evaluate --json` writes.

All metrics are fractions in 0..1, or None where there was nothing to score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from upernet.errors import UpernetError
from upernet.evaluation.photo_counts import PhotoCounts
from upernet.evaluation.tta import TestTimeAugmentation
from upernet.recipe import MetricRules, Split
from upernet.settings import check_settings

Json = dict[str, Any]
_KEYS = ("sources", "weak", "split", "photos", "skipped", "testing")
"""Keys of an evaluation result that are not levels."""
_RULES = "metrics"
"""Such a key, where the rules are not the standard ones."""


class _Metrics(BaseModel):
    """Base of the metrics: immutable, and built from a merged JSON object by ignoring the keys of other metrics."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_dict(self) -> Json:
        """Return the metrics as JSON types, without those that were not measured."""
        return self.model_dump(mode="json", exclude_unset=True)


class ReliabilityBin(_Metrics):
    """The predictions whose confidence lies in one bin."""

    confidence: float | None
    """Mean confidence; None: the bin is empty."""
    accuracy: float | None
    """Share of correct predictions; None: the bin is empty."""
    count: int


class PixelClassMetrics(_Metrics):
    """Metrics of one class, or of one part of an object, over pixels."""

    iou: float | None
    accuracy: float | None
    pixels: int
    """Number of labeled pixels of the class."""
    boundary_iou: float | None = None
    """See `upernet.evaluation.boundary.BoundaryCounts`; not of parts."""


class PixelMetrics(_Metrics):
    """Metrics of a level that is annotated with label maps."""

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    boundary_miou: float | None = None
    """Mean of the classes' Boundary IoU."""
    ece: float | None = None
    """Expected calibration error over pixels; see `upernet.evaluation.reliability.Reliability`."""
    classes_absent: tuple[str, ...]
    """Classes that are neither annotated nor predicted, and so do not count in the mIoU."""
    per_class: dict[str, PixelClassMetrics]
    reliability: tuple[ReliabilityBin, ...] = ()


class LabelClassMetrics(_Metrics):
    """Metrics of one class over photos."""

    top1: float | None
    top5: float | None = None
    photos: int
    """Number of photos with this label."""


class LabelMetrics(_Metrics):
    """Metrics of a level that is annotated with one label per photo."""

    top1: float | None
    top5: float | None = None
    """Top-5 accuracy; only of levels that are not dense (scene)."""
    top1_ece: float | None = None
    """Expected calibration error over photos."""
    per_class: dict[str, LabelClassMetrics]
    top1_reliability: tuple[ReliabilityBin, ...] = ()


class ObjectMetrics(_Metrics):
    """Metrics of the parts of one object; see `upernet.evaluation.metrics.PartScore`."""

    miou: float | None
    miou_with_background: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    miou_given_object: float | None
    pixels: int
    """Number of pixels that show an annotated part of the object."""


class PartMetrics(_Metrics):
    """Metrics of parts: means over the objects that own them; see `upernet.evaluation.metrics.PartScore`."""

    miou: float | None
    miou_with_background: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    miou_given_object: float | None
    ece: float | None = None
    """Expected calibration error over the pixels inside the true objects."""
    classes_absent: tuple[str, ...]
    """Parts ("object/part") that are neither annotated nor predicted, and so do not count in the mIoU."""
    per_object: dict[str, ObjectMetrics]
    per_class: dict[str, PixelClassMetrics]
    reliability: tuple[ReliabilityBin, ...] = ()


@dataclass(frozen=True)
class LevelMetrics:
    """All metrics of one level; several where some photos have label maps and others have image labels."""

    pixels: PixelMetrics | None = None
    labels: LabelMetrics | None = None
    parts: PartMetrics | None = None

    def to_dict(self) -> Json:
        """Return one JSON object with the metrics of all kinds, those of each class merged."""
        merged: Json = {}
        for metrics in (self.pixels, self.labels, self.parts):
            if metrics:
                values = metrics.to_dict()
                classes: Json = merged.get("per_class", {})
                for name, scores in values["per_class"].items():
                    classes[name] = {**classes.get(name, {}), **scores}
                merged |= values | {"per_class": classes}
        return merged

    @classmethod
    def from_dict(cls, values: Json) -> LevelMetrics:
        """Build the metrics from the result of `to_dict`.

        Raises:
            UpernetError: A metric is missing or has the wrong type.
        """
        has_parts = "per_object" in values
        return cls(
            pixels=check_settings(values, PixelMetrics, "metrics") if "miou" in values and not has_parts else None,
            labels=check_settings(values, LabelMetrics, "metrics") if "top1" in values else None,
            parts=check_settings(values, PartMetrics, "metrics") if has_parts else None,
        )


@dataclass(frozen=True, eq=False)
class EvaluationResult(Mapping[str, Any]):
    """Result of `upernet.evaluate`.

    It also reads like the dictionary that `to_dict` returns: `result["object"]["miou"]`.
    """

    levels: dict[str, LevelMetrics]
    """level -> metrics on its annotations in all sources with `scored: true` together."""
    sources: dict[str, dict[str, LevelMetrics]]
    """source -> level -> metrics on its annotations in that source."""
    implied: dict[str, dict[str, LevelMetrics]]
    """source -> level -> metrics on labels that the source implies; sources without any are left out."""
    split: Split
    photos: dict[str, int]
    """source -> number of photos."""
    skipped: tuple[str, ...]
    """Sources whose folder or split does not exist."""
    testing: TestTimeAugmentation
    counts: PhotoCounts | None = None
    """What was counted in each photo; not part of `to_dict()`."""
    rules: MetricRules = "standard"
    """How the scores follow from what was counted."""

    def to_dict(self) -> Json:
        """Return the result as JSON types.

        Returns:
            A dictionary with these keys::

                LEVEL: {metric: value}
                "sources": {source: {level: {metric: value}}}
                "weak": {source: {level: {metric: value}}}      # implied labels
                "split": str
                "photos": {source: int}
                "skipped": [source]
                "testing": {"scales": [float], "flip": bool, "window": int | None, "stride": int | None}
                "metrics": "published"      # unless the rules are the standard ones
        """
        return {
            **_levels_to_dict(self.levels),
            "sources": {source: _levels_to_dict(levels) for source, levels in self.sources.items()},
            "weak": {source: _levels_to_dict(levels) for source, levels in self.implied.items()},
            "split": self.split,
            "photos": dict(self.photos),
            "skipped": list(self.skipped),
            "testing": self.testing.to_dict(),
            **({} if self.rules == "standard" else {_RULES: self.rules}),
        }

    @classmethod
    def from_dict(cls, values: Json) -> EvaluationResult:
        """Build the result from that of `to_dict`, for instance from the JSON file of `upernet evaluate`.

        Raises:
            UpernetError: A key or a metric is missing, or has the wrong type.
        """
        if missing := [key for key in _KEYS if key not in values]:
            raise UpernetError(
                f"evaluation result without {', '.join(missing)}; give the JSON that `upernet evaluate` wrote."
            )
        try:
            return cls._from_checked_keys(values)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UpernetError(
                f"evaluation result with a value of the wrong type ({error}); give the JSON that `upernet evaluate` "
                "wrote."
            ) from None

    @classmethod
    def _from_checked_keys(cls, values: Json) -> EvaluationResult:
        testing: Json = values["testing"]
        return cls(
            levels=_levels_from_dict({key: metrics for key, metrics in values.items() if key not in (*_KEYS, _RULES)}),
            sources={source: _levels_from_dict(levels) for source, levels in values["sources"].items()},
            implied={source: _levels_from_dict(levels) for source, levels in values["weak"].items()},
            split=values["split"],
            photos=dict(values["photos"]),
            skipped=tuple(values["skipped"]),
            testing=TestTimeAugmentation(
                tuple(testing["scales"]), testing["flip"], testing["window"], testing["stride"]
            ),
            rules="published" if values.get(_RULES) == "published" else "standard",
        )

    def __getitem__(self, key: str) -> Any:
        """Return one value of `to_dict()`."""
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys of `to_dict()`."""
        return iter(self.to_dict())

    def __len__(self) -> int:
        """Return the number of keys of `to_dict()`."""
        return len(self.to_dict())


def _levels_to_dict(levels: Mapping[str, LevelMetrics]) -> Json:
    return {name: metrics.to_dict() for name, metrics in levels.items()}


def _levels_from_dict(values: Json) -> dict[str, LevelMetrics]:
    return {name: LevelMetrics.from_dict(metrics) for name, metrics in values.items()}
