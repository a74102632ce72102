"""Comparison of two models on the same photos, with the significance of the differences by paired bootstrap.

The photos are drawn again with replacement, the same ones for both models, many times; the 2.5 % and 97.5 % quantiles
of the difference over these samples bound its 95 % interval (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13). The mIoU and the IoUs of a sample come from its summed counts, as those of the whole evaluation do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upernet.errors import UpernetError
from upernet.evaluation.examples import photo_accuracy
from upernet.evaluation.folder import counts_of
from upernet.evaluation.photo_counts import NOT_SCORED, Ints, LevelCounts, PhotoCounts
from upernet.evaluation.results import EvaluationResult

Floats = NDArray[np.float64]
RESAMPLES = 2000
"""Number of bootstrap samples."""
AT_ONCE = 200
"""Number of bootstrap samples whose counts are in memory at a time."""
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Difference:
    """The value of a metric for both models, and how sure the difference is."""

    first: float | None
    second: float | None
    interval: tuple[float, float] | None
    """95 % interval of `second - first`; None where one of the models has no value."""

    @property
    def difference(self) -> float | None:
        """How much larger the value of the second model is."""
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "significant": self.is_significant,
        }


@dataclass(frozen=True)
class LevelComparison:
    """The comparison of one level."""

    title: str
    metric: str
    """Name of `total` in results: miou or top1."""
    photos: int
    total: Difference
    per_class: dict[str, Difference]
    """Class -> IoU or, with image labels, share of its photos that is right."""
    per_photo: tuple[tuple[str, float, float], ...]
    """Photo, and the share of it that each model gets right; what the second does worst comes first."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of two evaluations."""

    split: str
    resamples: int
    seed: int
    same_testing: bool
    """Whether both used the same test-time augmentation."""
    levels: tuple[LevelComparison, ...]
    remarks: tuple[str, ...] = ()
    """Sentences that say what is not compared."""

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types: `{LEVEL: {METRIC: difference, "photos": int, "per_class": ...}}`."""
        levels = {
            level.title: {
                level.metric: level.total.to_dict(),
                "photos": level.photos,
                "per_class": {name: found.to_dict() for name, found in level.per_class.items()},
            }
            for level in self.levels
        }
        about = {"resamples": self.resamples, "seed": self.seed, "same_testing": self.same_testing}
        return {**levels, "split": self.split, "bootstrap": about, "remarks": list(self.remarks)}


def compare(first: EvaluationResult, second: EvaluationResult, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two evaluations on the same photos.

    Args:
        first: Evaluation of one model, with its counts.
        second: Evaluation of another.
        resamples: Number of bootstrap samples.
        seed: Seed of the draws; the same seed gives the same intervals.

    Raises:
        UpernetError: The evaluations differ in split, photos, classes or labels, or lack their counts.
    """
    if first.split != second.split:
        raise UpernetError(
            f"the evaluations are of different splits, {first.split} and {second.split}; evaluate both on the same one."
        )
    counts = counts_of(first), counts_of(second)
    pairs = _paired_levels(*counts)
    levels = [_compare_level(*counts, *pair, resamples, seed) for pair in pairs]
    return Comparison(first.split, resamples, seed, first.testing == second.testing, tuple(levels))


def _paired_levels(first: PhotoCounts, second: PhotoCounts) -> list[tuple[LevelCounts, LevelCounts]]:
    """Return the levels that both evaluations scored.

    Raises:
        UpernetError: There are none, or their classes differ.
    """
    others = {(level.level, level.kind): level for level in second.levels if second.scored(level)}
    pairs: list[tuple[LevelCounts, LevelCounts]] = []
    for level in first.levels:
        other = others.get((level.level, level.kind))
        if other is None or not first.scored(level):
            continue
        if (level.names, level.groups) != (other.names, other.groups):
            raise UpernetError(
                f"{level.title}: the models have different classes ({_differing(level.names, other.names)}); "
                "compare models of the same taxonomy, or add --as TAXONOMY."
            )
        pairs.append((level, other))
    if not pairs:
        raise UpernetError("the evaluations have no level in common; compare models that were scored on the same data.")
    return pairs


def _differing(first: tuple[str, ...], second: tuple[str, ...]) -> str:
    only = [f"{name!r}" for name in (*first, *second) if (name in first) != (name in second)]
    return f"{', '.join(only[:3])}{', ...' if len(only) > 3 else ''} only in one" if only else "in another order"


def _compare_level(
    first_counts: PhotoCounts,
    second_counts: PhotoCounts,
    first: LevelCounts,
    second: LevelCounts,
    resamples: int,
    seed: int,
) -> LevelComparison:
    keys = {_key(first_counts, photo): photo for photo in first_counts.scored(first)}
    others = {_key(second_counts, photo): photo for photo in second_counts.scored(second)}
    if keys.keys() != others.keys():
        missing = sorted(keys.keys() ^ others.keys())
        raise UpernetError(
            f"{first.title}: the evaluations are of different photos ({len(missing)} are in one of them only, such as "
            f"{missing[0][1]}); evaluate both models on the same data."
        )
    matching = [others[key] for key in keys]
    totals = first.totals(list(keys.values())), second.totals(matching)
    if not np.array_equal(totals[0][0], totals[1][0]):
        changed = int((totals[0][0] != totals[1][0]).any(1).argmax())
        raise UpernetError(
            f"{first.title}: the labels of {list(keys)[changed][1]} differ between the evaluations; "
            "evaluate both models on the same data."
        )
    metric = top1 if first.kind == "labels" else mean_iou
    per_class = recall if first.kind == "labels" else iou
    groups = np.asarray(first.groups)
    totals_of_both = np.stack(totals)
    sums = totals_of_both.sum(2)
    value, values = metric(sums, groups), per_class(sums)
    samples = _bootstrap(totals_of_both, resamples, seed)
    drawn, drawn_per_class = metric(samples, groups), per_class(samples)
    return LevelComparison(
        title=first.title,
        metric="top1" if first.kind == "labels" else "miou",
        photos=len(keys),
        total=_difference(value, drawn[:, 1] - drawn[:, 0]),
        per_class={
            first.names[c]: _difference(values[:, c], drawn_per_class[:, 1, c] - drawn_per_class[:, 0, c])
            for c in first.scored_classes
        },
        per_photo=_per_photo(keys, photo_accuracy(first, list(keys.values())), photo_accuracy(second, matching)),
    )


def _per_photo(keys: Iterable[tuple[str, str]], first: Floats, second: Floats) -> tuple[tuple[str, float, float], ...]:
    rows = [(key, float(a), float(b)) for (_, key), a, b in zip(keys, first, second, strict=True)]
    return tuple(sorted(rows, key=lambda row: row[2] - row[1]))


def _key(counts: PhotoCounts, photo: int) -> tuple[str, str]:
    return counts.photos[photo].source, counts.photos[photo].key


def _bootstrap(totals: Ints, resamples: int, seed: int) -> Floats:
    """Return the summed counts of `resamples` draws of photos: float64 R x 2 x 3 x K from 2 x 3 x P x K."""
    random = np.random.default_rng(seed)
    photos = totals.shape[2]
    by_photo = np.reshape(np.moveaxis(totals, 2, 0), (photos, -1)).astype(np.float64)
    sums: list[Floats] = []
    for start in range(0, resamples, AT_ONCE):
        drawn = random.multinomial(photos, np.full(photos, 1 / photos), min(AT_ONCE, resamples - start))
        sums.append(drawn.astype(np.float64) @ by_photo)
    return np.reshape(np.concatenate(sums), (resamples, *totals.shape[:2], totals.shape[3]))


def iou(sums: NDArray[Any]) -> Floats:
    """Return the IoU per class of ... x 3 x K true, predicted and correct counts; nan where a class does not occur."""
    true, predicted, correct = np.moveaxis(sums, -2, 0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return correct / (true + predicted - correct)


def recall(sums: NDArray[Any]) -> Floats:
    """Return the share of each true class that is right, of ... x 3 x K counts; nan where a class does not occur."""
    true, _, correct = np.moveaxis(sums, -2, 0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return correct / true


def mean_iou(sums: NDArray[Any], groups: NDArray[Any]) -> Floats:
    """Return the mIoU of ... x 3 x K counts: the mean over groups of the mean over those of their classes that occur.

    A group without true pixels is left out.
    """
    values = iou(sums)
    means: list[Floats] = []
    for group in np.unique(groups[groups != NOT_SCORED]):
        inside = values[..., groups == group]
        found = np.isfinite(inside)
        count = found.sum(-1)
        mean = np.where(found, inside, 0).sum(-1) / np.maximum(count, 1)
        occurs = sums[..., 0, :][..., groups == group].any(-1) & (count > 0)
        means.append(np.where(occurs, mean, np.nan))
    stacked = np.stack(means)
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(known, stacked, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)


def top1(sums: NDArray[Any], groups: NDArray[Any]) -> Floats:
    """Return the top-1 accuracy of ... x 3 x K counts over the classes that are scored."""
    scored = sums[..., groups != NOT_SCORED]
    return scored[..., 2, :].sum(-1) / scored[..., 0, :].sum(-1)


def _difference(values: Floats, samples: Floats) -> Difference:
    first, second = (float(value) if np.isfinite(value) else None for value in values)
    known = samples[np.isfinite(samples)]
    interval = None
    if first is not None and second is not None and known.size:
        low, high = np.quantile(known, QUANTILES)
        interval = (float(low), float(high))
    return Difference(first, second, interval)
