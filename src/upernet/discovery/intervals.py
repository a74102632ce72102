"""95 % intervals over photos: Wilson's for frequencies, the bootstrap's for ratios of areas and frequencies.

The bootstrap gives each photo a weight drawn from a Poisson distribution of mean 1 instead of drawing a fixed number
of photos (Hanley and MacGibbon, Computer Methods and Programs in Biomedicine, 2006), so that the photos can be read one
after another. The draws depend on the seed and the name of the photo only, so the result does not depend on the order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from upernet.discovery.store import StoredPhoto
from upernet.discovery.totals import Classes, presence

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
QUANTILES = (0.025, 0.975)
AT_ONCE = 4096
"""Number of relations whose samples are in memory at a time: 64 MB with 1,000 samples."""


def wilson(successes: int, trials: int) -> Interval:
    """Return Wilson's 95 % score interval of a proportion (Wilson, JASA 1927).

    Args:
        successes: Photos with the relation, at most `trials`.
        trials: Photos that could have it, at least 1.
    """
    share, spread = successes / trials, Z**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, center - half)
    return low, 1.0 if successes == trials else min(1.0, center + half)


class Ratios:
    """The intervals of the ratios of one relation."""

    def __init__(self, lift: Interval, area_share: Interval, area_lift: Interval):
        self.lift, self.area_share, self.area_lift = lift, area_share, area_lift


def bootstrap(
    photos: Iterable[StoredPhoto], pair: str, relations: Sequence[Classes], min_area: float, resamples: int, seed: int
) -> dict[Classes, Ratios]:
    """Return the intervals of relations of one pair of levels.

    Args:
        photos: All photos; they are read once for every `AT_ONCE` relations.
        pair: The pair of levels.
        relations: The relations.
        min_area: What `presence` takes.
        resamples: Number of samples.
        seed: Seed of the draws.
    """
    found: dict[Classes, Ratios] = {}
    for start in range(0, len(relations), AT_ONCE):
        part = relations[start : start + AT_ONCE]
        found.update(_bootstrap(photos, pair, part, min_area, resamples, seed))
    return found


def photo_weights(key: str, resamples: int, seed: int) -> Floats:
    """Return how often each sample draws a photo: whole numbers, float64."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16, key=str(seed).encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return generator.poisson(1.0, resamples).astype(np.float64)


def _bootstrap(
    photos: Iterable[StoredPhoto], pair: str, relations: Sequence[Classes], min_area: float, resamples: int, seed: int
) -> dict[Classes, Ratios]:
    """Sum photos and areas of each sample, in two rows per class and relation, and take quantiles of the ratios."""
    names: list[tuple[str, object]] = [("joint", classes) for classes in relations]
    names += [("a", name) for name in dict.fromkeys(a for a, _ in relations)]
    names += [("b", name) for name in dict.fromkeys(b for _, b in relations)]
    rows = {name: 2 * position for position, name in enumerate(names, 1)}
    sums = np.zeros((2 * len(names) + 2, resamples))
    for photo in photos:
        if pair not in photo.counts.pairs:
            continue
        present = presence(pair, photo.counts, min_area)
        where, values = [0, 1], [1, present.area]
        for side, added in (("a", present.a), ("b", present.b), ("joint", present.joint)):
            for classes, pair_of_values in added.items():
                if (row := rows.get((side, classes))) is not None:
                    where += (row, row + 1)
                    values += pair_of_values
        sums[where] += np.asarray(values, np.float64)[:, None] * photo_weights(photo.key, resamples, seed)
    found: dict[Classes, Ratios] = {}
    for a, b in relations:
        joint, of_a, of_b = rows["joint", (a, b)], rows["a", a], rows["b", b]
        with np.errstate(divide="ignore", invalid="ignore"):
            lift = (sums[joint] / sums[of_a]) / (sums[of_b] / sums[0])
            area_share = sums[joint + 1] / sums[of_a + 1]
            area_lift = area_share / (sums[of_b + 1] / sums[1])
        found[a, b] = Ratios(_interval(lift), _interval(area_share), _interval(area_lift))
    return found


def _interval(samples: Floats) -> Interval:
    """Return the quantiles of the samples that have a value: those that drew a photo with both classes."""
    finite = samples[np.isfinite(samples)]
    if not finite.size:
        return math.nan, math.nan
    low, high = np.quantile(finite, QUANTILES)
    return float(low), float(high)
