"""`Parse`: the result of parsing one photo."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from upernet.errors import UpernetError, printable
from upernet.inference import describe, exporting, render, saving, sheet
from upernet.inference.label_map import UNSURE_NAME, LabelMap
from upernet.inference.saving import KINDS
from upernet.inference.wording import percent, readable
from upernet.taxonomy import LEVEL_KINDS, PartGroup

UNFAMILIAR = 0.02
"""Familiarity below which a photo is unlike the training photos: the share of false alarms on photos like them."""
RANKED = 5
"""Number of candidates per image label in the JSON file."""

Ranking = Sequence[tuple[str, float]]
"""All classes of an image label with their probability, most probable first."""


class PixelLabel(NamedTuple):
    """What one level says about a pixel."""

    name: str
    """Name of the class; "unsure" where its probability is below the threshold."""
    confidence: float
    """Probability of the most probable class."""
    of: str | None = None
    """For parts: name of the object that the pixel belongs to."""


class Parse:
    """The result of parsing one photo.

    `parse.object`, `.part`, `.material` and `.texture` are `LabelMap`s; `.scene` is a ranked list. `parse["LEVEL"]`
    returns any level, including added ones. A level that the model does not have, or that was not requested, raises
    `UpernetError`.

    Args:
        photo: The photo as an RGB image.
        maps: level -> label map, at the size of the photo.
        rankings: level -> all classes with their probability, most probable first, for levels with one label per photo.
        thresholds: level -> probability below which a label is unsure; already applied to `maps`.
        class_thresholds: level -> class -> the same, for classes that differ from their level.
        part_groups: The objects that own parts.
        familiarity: Share of familiar photos that look as unusual as this one.
        model: Name of the model.
        path: The file of the photo, as it was given.

    Example:
        >>> import upernet
        >>> parse = upernet.load("everyday")("street.jpg")
        >>> parse.scene[0], parse.object.shares()
        >>> parse.object.mask("car"), parse.object.regions("car")
        >>> parse.at(100, 50)["object"].name
        >>> print(parse.describe())
        >>> parse.overlay("object").show()
        >>> parse.save("parses")
    """

    def __init__(
        self,
        photo: Image.Image,
        maps: Mapping[str, LabelMap],
        rankings: Mapping[str, Ranking] | None = None,
        *,
        thresholds: Mapping[str, float] | None = None,
        class_thresholds: Mapping[str, Mapping[str, float]] | None = None,
        part_groups: Sequence[PartGroup] = (),
        familiarity: float | None = None,
        model: str = "",
        path: str | None = None,
    ):
        self.photo = photo
        self.maps = {
            level: label_map if label_map.photo is not None else replace(label_map, photo=photo)
            for level, label_map in maps.items()
        }
        self.rankings = {level: list(ranking) for level, ranking in (rankings or {}).items()}
        self.thresholds = dict(thresholds or {})
        self.class_thresholds = {level: dict(own) for level, own in (class_thresholds or {}).items()}
        self.part_groups = tuple(part_groups)
        self.familiarity = familiarity
        """Share of photos like the training photos that look as unusual as this one, in 0..1; None if the model has no
        statistics of its training photos. See `is_familiar`."""
        self.model = model
        self.path = path
        self.folder: Path | None = None
        """The folder that `save` has written."""

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of this parse."""
        return (*self.rankings, *self.maps)

    def __getitem__(self, level: str) -> Any:
        """Return the label map of a dense level, or the ranked list of a level with one label per photo."""
        return self.ranking(level) if level in self.rankings else self.label_map(level)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the levels, as a mapping does."""
        return iter(self.levels)

    def __contains__(self, level: object) -> bool:
        """Return whether the parse has a level."""
        return level in self.levels

    @property
    def scene(self) -> list[tuple[str, float]]:
        """All scenes with their probability, most probable first; see `scene_is_sure`."""
        return self.ranking("scene")

    @property
    def scene_is_sure(self) -> bool:
        """Whether the first scene is probable enough to be the answer."""
        return self.is_sure("scene")

    @property
    def is_familiar(self) -> bool | None:
        """Whether the photo looks like the training photos; None if the model cannot tell.

        Of photos like the training photos, a share of `UNFAMILIAR` (2 %) is not called familiar. Expect mistakes in the
        parse of a photo that is not.
        """
        return None if self.familiarity is None else self.familiarity >= UNFAMILIAR

    @property
    def object(self) -> LabelMap:
        """The label map of the objects."""
        return self.label_map("object")

    @property
    def part(self) -> LabelMap:
        """The label map of the parts."""
        return self.label_map("part")

    @property
    def material(self) -> LabelMap:
        """The label map of the materials."""
        return self.label_map("material")

    @property
    def texture(self) -> LabelMap:
        """The label map of the textures."""
        return self.label_map("texture")

    def label_map(self, level: str) -> LabelMap:
        """Return the label map of a dense level."""
        if level not in self.maps:
            raise self._missing(level)
        return self.maps[level]

    def ranking(self, level: str) -> list[tuple[str, float]]:
        """Return the ranked list of a level with one label per photo."""
        if level not in self.rankings:
            raise self._missing(level)
        return self.rankings[level]

    def is_sure(self, level: str) -> bool:
        """Return whether the first label of a ranked level reaches its threshold."""
        name, probability = self.ranking(level)[0]
        return probability >= self.threshold(level, name)

    def threshold(self, level: str, name: str) -> float:
        """Return the probability below which a class of a level is unsure."""
        return self.class_thresholds.get(level, {}).get(name, self.thresholds.get(level, 0.0))

    def at(self, x: int, y: int) -> dict[str, PixelLabel]:
        """Return what all levels say about a pixel: level -> name, confidence and, for parts, the object.

        Args:
            x: Column of the pixel, from 0 at the left.
            y: Row of the pixel, from 0 at the top.

        Raises:
            UpernetError: The pixel is outside the photo.

        Example:
            >>> import upernet
            >>> parse = upernet.load("everyday")("street.jpg")
            >>> parse.at(320, 200)["part"]
            PixelLabel(name='hair', confidence=0.81, of='person')
        """
        width, height = self.photo.size
        if not (0 <= x < width and 0 <= y < height):
            raise UpernetError(f"pixel ({x}, {y}) is outside the photo of {width} x {height} pixels.")
        where = int(y), int(x)
        found: dict[str, PixelLabel] = {}
        for level, ranking in self.rankings.items():
            name, probability = ranking[0]
            found[level] = PixelLabel(name if self.is_sure(level) else UNSURE_NAME, probability)
        for level, label_map in self.maps.items():
            owners = self.maps.get(LEVEL_KINDS[level].owned_by or "")
            name = label_map.name(int(label_map.labels[where]))
            of = None if owners is None else owners.name(int(owners.labels[where]))
            found[level] = PixelLabel(name, float(label_map.confidence[where]), of)
        return found

    def overlay(self, level: str, alpha: float | None = None) -> Image.Image:
        """Draw the labels of `level` over the photo.

        Args:
            level: A dense level.
            alpha: Weight of the colors, from 0 (the photo alone) to 1, in a plain overlay, which has the photo's own
                size, and neither names, borders nor a legend. Default: an overlay for people, with region names and a
                legend; the long side of its photo has 480 to 1024 pixels.

        Raises:
            UpernetError: The parse has no map of the level, or `alpha` is not in 0..1.
        """
        if alpha is not None:
            return render.blended(self.photo, self.label_map(level), alpha)
        return render.overlay(self._overlay_photo, self.label_map(level))

    @cached_property
    def _overlay_photo(self) -> Image.Image:
        return render.reduced(self.photo, render.overlay_size(self.photo))

    def sheet(self) -> Image.Image:
        """Draw the contact sheet: the photo, a panel for each level that says something, and the description."""
        lines = self.describe().splitlines()
        name = printable(Path(self.path or "Photo").name)
        title = lines.pop(0).removesuffix(".") if lines else name
        maps = list(self.maps.values())
        return sheet.contact_sheet(self.photo, maps, title, "\n".join(lines), self.rankings, name)

    def describe(self) -> str:
        """Describe the parse in sentences, one line per subject; percentages are rounded shares of pixels.

        After the image labels, a line says so if the photo is unlike the training photos.
        """
        return self._description(self._maps_counting_once())

    def _maps_counting_once(self) -> dict[str, LabelMap]:
        return {level: label_map.counting_once() for level, label_map in self.maps.items()}

    def _description(self, maps: Mapping[str, LabelMap]) -> str:
        sure = [level for level in self.rankings if self.is_sure(level)]
        lines = describe.describe(self.rankings, sure, maps, self.part_groups).splitlines()
        lines[len(self.rankings) : len(self.rankings)] = describe.caution(self.is_familiar)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the parse without its pixels, as values that JSON can hold.

        `shares` are fractions of the photo, including "unsure"; `names` gives the meaning of the values in the label
        PNGs, and `background` says whether the first one means "none of the others"; `part.of` has the shares within
        each object that owns parts.
        """
        maps = self._maps_counting_once()
        result: dict[str, Any] = {
            "path": self.path,
            "model": self.model,
            "width": self.photo.width,
            "height": self.photo.height,
            "familiarity": self.familiarity if self.familiarity is None else _finite(self.familiarity),
            "description": self._description(maps),
        }
        for level, ranking in self.rankings.items():
            result[level] = {
                "name": ranking[0][0] if self.is_sure(level) else None,
                "ranked": [
                    {"name": name, "probability": _finite(probability)} for name, probability in ranking[:RANKED]
                ],
                "threshold": _finite(self.thresholds.get(level, 0.0)),
                "class_thresholds": self.class_thresholds.get(level, {}),
            }
        for level, label_map in maps.items():
            result[level] = {
                "shares": label_map.shares(),
                "mean_confidence": _finite(float(label_map.confidence.mean())),
                "threshold": _finite(self.thresholds.get(level, 0.0)),
                "class_thresholds": self.class_thresholds.get(level, {}),
                "unsure": saving.unsure_value(label_map),
                "background": label_map.background,
                "names": list(label_map.names),
            }
        for level, owned in maps.items():
            owners = maps.get(LEVEL_KINDS[level].owned_by or "")
            if owners is not None:
                present = owners.counts()
                result[level]["of"] = {
                    owners.names[group.owner]: owned.shares(owners.labels == group.owner)
                    for group in self.part_groups
                    if group.owner in present
                }
        return result

    def to_coco(
        self, level: str | None = None, *, segmentation: exporting.Segmentation = "rle", min_area: int = 1
    ) -> dict[str, Any]:
        """Return a COCO data set of this photo, with one annotation per region.

        Args:
            level: The level. Default: `object`, or the first dense level where there are no objects.
            segmentation: "rle" for compressed run lengths, or "polygon" for outlines without holes.
            min_area: Number of pixels from which on regions are included.
        """
        dataset = exporting.CocoDataset(level, segmentation=segmentation, min_area=min_area)
        dataset.add(self)
        return dataset.to_dict()

    def to_supervision(self, level: str | None = None, *, min_area: int = 1) -> Any:
        """Return the regions of a level (as `to_coco` takes it) as `supervision.Detections`.

        Raises:
            UpernetError: supervision is not installed, or the masks take too much memory.
        """
        return exporting.detections(self, level, min_area=min_area)

    def to_dataframe(self, levels: Sequence[str] | None = None, *, min_area: int = 1) -> Any:
        """Return a `pandas.DataFrame` with one row per region of each dense level; see `upernet.inference.exporting`.

        Raises:
            UpernetError: pandas is not installed.
        """
        return exporting.dataframe(self, levels, min_area=min_area)

    def to_geojson(self, levels: Sequence[str] | None = None, *, min_area: int = 1) -> dict[str, Any]:
        """Return the outlines of the regions as a GeoJSON `FeatureCollection`, in pixels: x to the right, y down."""
        return exporting.geojson(self, levels, min_area=min_area)

    def save(
        self,
        directory: str | Path,
        name: str | None = None,
        *,
        kinds: Collection[str] = KINDS,
        alpha: float | None = None,
    ) -> Path:
        """Write the parse to a folder of its own in `directory`.

        The folder is called `name`; the default is the file name of the photo without its suffix. If the folder holds
        the parse of another photo, or something else, the parse goes to `name-2`, `name-3`, ...; an earlier parse of
        the same photo is replaced, and its other files removed. Either all files appear or, on any error, none changes.
        The folder contains:

        * labels: `LEVEL.png`, whose values are the labels: 8 bits with 255 = unsure, and a palette of the class colors;
          16 bits with 65535 = unsure, and no palette, if the level has more than 255 classes
        * confidence: `LEVEL_confidence.png`, the probability of the most probable class, 8-bit gray, 255 = 1
        * overlay: `LEVEL_overlay.png`, what `overlay` draws
        * sheet: `sheet.jpg`, the contact sheet
        * json: `parse.json`, what `to_dict` returns, with the path of the photo relative to the folder

        Args:
            directory: Where the folder is created.
            name: Name of the folder.
            kinds: What to save. `parse.json` always is, because the next parse of the photo knows its folder by it.
            alpha: What `overlay` takes; a number makes the overlays plain, in the photo's own size.

        Returns:
            The folder.

        Raises:
            UpernetError: The folder cannot be written, the disk is full, `kinds` has an unknown name, or `alpha` is not
                in 0..1.
        """
        self.folder = saving.save(self, Path(directory), name, kinds, alpha)
        return self.folder

    def _missing(self, level: str) -> UpernetError:
        if level in self.rankings:
            return UpernetError(
                f'the {level} is one label for the whole photo, without a map; read it from parse["{level}"].'
            )
        return UpernetError(f"this parse has no level {level!r}; it has {', '.join(self.levels)}.")

    def __repr__(self) -> str:
        photo = printable(self.path or "photo")
        labels = [
            f"{level} {readable(ranking[0][0])} {percent(ranking[0][1])}" for level, ranking in self.rankings.items()
        ]
        return (
            f"<Parse of {photo}, {self.photo.width} x {self.photo.height} pixels: {', '.join([*labels, *self.maps])}>"
        )

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.sheet().save(file, "PNG")
        return file.getvalue()

    def _repr_html_(self) -> str:
        file = io.BytesIO()
        self.sheet().save(file, "JPEG", quality=88)
        picture = base64.b64encode(file.getvalue()).decode("ascii")
        name = html.escape(printable(self.path or "photo"))
        return (
            f'<figure><img alt="{name}" src="data:image/jpeg;base64,{picture}"><figcaption>{name}</figcaption></figure>'
        )


def _finite(value: float) -> float | None:
    """Return the value, or None for NaN and infinities, which JSON does not have."""
    return float(value) if math.isfinite(value) else None
