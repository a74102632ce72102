"""`Relation` and `Discovery`: what a collection of photos says about which classes go together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from upernet.discovery.counts import PAIRS, pair_name
from upernet.discovery.intervals import Interval, Ratios, wilson
from upernet.discovery.totals import Classes, Example, PairTotals
from upernet.errors import UpernetError


@dataclass(frozen=True)
class Relation:
    """How often, and to which extent, class `b` of one level is found at class `a` of another one.

    With scenes, "found at" means that the photo of scene `a` shows `b`; otherwise, that both have pixels in common.
    Areas are sums over photos of the share of the photo, so that each photo weighs the same whatever its size, and only
    pixels count whose class is known at both levels. All intervals are 95 % intervals over photos.
    """

    pair: str
    """The levels, such as "object-material"."""
    a: str
    b: str
    photos: int
    """Photos with both levels (and a sure scene, for pairs with scenes)."""
    photos_a: int
    """Photos that have `a`."""
    photos_b: int
    """Photos that have `b`, wherever."""
    support: int
    """Photos that have `b` at `a`."""
    frequency: float
    """`support / photos_a`."""
    frequency_low: float
    frequency_high: float
    base_frequency: float
    """`photos_b / photos`."""
    lift: float
    """`frequency / base_frequency`. Above 1: more often than in any photo. For two label maps this is cautious, because
    `b` at `a` is rarer than `b` anywhere; `area_lift` compares like with like."""
    lift_low: float
    lift_high: float
    pmi: float
    """Pointwise mutual information in bits: log2 of `lift`."""
    known_share: float
    """Share of the area of `a` whose class of the other level is known. The areas below are about this part only, so
    where it is small, they say little."""
    area_share: float
    """Share of the known area of `a` that is `b`."""
    area_share_low: float
    area_share_high: float
    base_area_share: float
    """Share of the whole area that is `b`."""
    area_lift: float
    """`area_share / base_area_share`. 1: `b` covers as much of `a` as of everything."""
    area_lift_low: float
    area_lift_high: float
    area_pmi: float
    """log2 of `area_lift`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types, in the order of the columns of relations.csv; None for no value."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


COLUMNS = tuple(Relation.__dataclass_fields__)
LITTLE_KNOWN = 0.5
"""`known_share` below which the command and the report warn that most of the class is unsure."""


@dataclass(frozen=True)
class Discovery:
    """The relations of a photo collection."""

    relations: tuple[Relation, ...]
    """Ordered by pair, by `a`, and then from the largest `area_share` to the smallest."""
    photos: Mapping[str, int]
    """Pair of levels -> number of photos that say something about it."""
    settings: Mapping[str, float | int]
    """`min_support`, `min_area`, `resamples` and `seed`."""
    counted: int
    """Number of photos in all."""
    models: Mapping[str, int]
    """Model -> number of photos that it parsed."""
    failures: tuple[tuple[str, str], ...]
    """Parses that were left out, each with the reason."""
    examples: Mapping[tuple[str, str, str], tuple[Example, ...]] = field(repr=False)
    """`(pair, a, b)` -> photos that show the relation best."""

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs of levels that have relations."""
        return tuple(dict.fromkeys(relation.pair for relation in self.relations))

    def of(self, pair: str) -> Iterator[Relation]:
        """Yield the relations of a pair of levels."""
        return (relation for relation in self.relations if relation.pair == pair)

    @property
    def note(self) -> str | None:
        """A warning that the parses are by several models; None if they are by one."""
        if len(self.models) < 2:
            return None
        models = ", ".join(f"{model}: {photos:,}" for model, photos in self.models.items())
        return (
            f"The parses are by {len(self.models)} models (photos by {models}); "
            "a class that a model does not have counts as absent from its photos."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the examples as JSON types."""
        return {
            "counted": self.counted,
            "models": dict(self.models),
            "photos": dict(self.photos),
            "settings": dict(self.settings),
            "failures": [{"parse": parse, "error": error} for parse, error in self.failures],
            "relations": [relation.to_dict() for relation in self.relations],
        }

    def to_dataframe(self) -> Any:
        """Return a `pandas.DataFrame` with a row per relation; its columns are the fields of `Relation`.

        Raises:
            UpernetError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise UpernetError("a DataFrame needs pandas; run: pip install 'upernet[pandas]'") from None
        return pandas.DataFrame([asdict(relation) for relation in self.relations], columns=list(COLUMNS))

    def save(self, out: str | Path, what: tuple[str, ...] | None = None) -> None:
        """Write the relations to a folder; see `upernet.discovery.writing.write`."""
        from upernet.discovery.writing import write

        write(self, Path(out), what)


def sorted_relations(relations: list[Relation]) -> tuple[Relation, ...]:
    """Return relations in the order of `Discovery.relations`."""
    order = {pair_name(*levels): position for position, levels in enumerate(PAIRS)}
    return tuple(sorted(relations, key=lambda found: (order[found.pair], found.a, -found.area_share, found.b)))


def relation(pair: str, classes: Classes, totals: PairTotals, ratios: Ratios) -> Relation:
    """Create a relation from the sums of its pair and the intervals of its ratios."""
    a, b = classes
    of_a, of_b, joint = totals.a[a], totals.b[b], totals.joint[classes]
    frequency, base = joint.photos / of_a.photos, of_b.photos / totals.photos
    area_share, base_area = joint.area / of_a.area, of_b.area / totals.area
    frequency_low, frequency_high = wilson(joint.photos, of_a.photos)

    def around(value: float, interval: Interval) -> Interval:
        """Return an interval that holds the value, which a bootstrap of few photos may miss."""
        low, high = interval
        return (value, value) if math.isnan(low) else (min(low, value), max(high, value))

    lift_low, lift_high = around(frequency / base, ratios.lift)
    share_low, share_high = around(area_share, ratios.area_share)
    area_lift_low, area_lift_high = around(area_share / base_area, ratios.area_lift)
    return Relation(
        pair=pair,
        a=a,
        b=b,
        photos=totals.photos,
        photos_a=of_a.photos,
        photos_b=of_b.photos,
        support=joint.photos,
        frequency=frequency,
        frequency_low=frequency_low,
        frequency_high=frequency_high,
        base_frequency=base,
        lift=frequency / base,
        lift_low=lift_low,
        lift_high=lift_high,
        pmi=math.log2(frequency / base),
        known_share=of_a.area / (of_a.area + totals.unsure[a]),
        area_share=area_share,
        area_share_low=share_low,
        area_share_high=share_high,
        base_area_share=base_area,
        area_lift=area_share / base_area,
        area_lift_low=area_lift_low,
        area_lift_high=area_lift_high,
        area_pmi=math.log2(area_share / base_area),
    )
