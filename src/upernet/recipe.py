"""Recipes: YAML files that describe how a model is built, trained and scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from upernet.errors import UpernetError
from upernet.settings import Settings, SettingsError, read_settings
from upernet.taxonomy import LEVEL_KINDS, LevelName

Split = Literal["train", "held_back", "val", "test"]
RECIPES = Path(__file__).parent / "recipes"

Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class TextureSpec(Settings):
    """The texture head: `depth` 3x3 convolutions of `channels` on backbone features, gradient stopped (section 3.3)."""

    features: tuple[Literal["C2", "C3", "C4", "C5"], ...] = ("C2",)
    """The features; the first is C2, which sets the size of the logits."""
    channels: int = Field(default=128, ge=1)
    depth: int = Field(default=4, ge=1, le=64)

    @field_validator("features")
    @classmethod
    def _starts_with_c2(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if features[:1] != ("C2",) or len(set(features)) < len(features):
            raise ValueError("must start with C2 and name no feature twice")
        return features


class ModelSpec(Settings):
    """The architecture. `backbone` is a name that `create_backbone` accepts; widths are numbers of channels."""

    backbone: str
    backbone_options: dict[str, int | float | bool | str | tuple[int, ...] | None] = {}
    """Options that override those of the named backbone, if it has any (for InternImage: `InternImageSpec`)."""
    backbone_weights: str | None = None
    """Source of the ImageNet weights: `timm` (which downloads them), `package:NAME` (a Python package), `zoo` (the
    published file of an InternImage backbone), or a file. None: random weights."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth: probability that the last block of the backbone is skipped for a photo; linear from 0."""
    feature_norms: bool = False
    """Whether each of C2..C5 has a layer norm, as in mmsegmentation and transformers after Swin and ConvNeXt."""
    decoder_channels: int = Field(default=512, ge=1)
    pool_scales: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(1, 2, 3, 6), max_length=16)
    head_channels: int | None = Field(default=None, ge=0)
    """Width of the 3x3 convolution in all heads but those on backbone features. None: that of the decoder. 0: only a
    classifier, as published for ADE20K."""
    texture: TextureSpec = TextureSpec()
    auxiliary_channels: int | None = Field(default=256, ge=1)
    """Width of the auxiliary FCN head on C4, which is only used in training. None: no such head."""
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Resize(Settings):
    """The size of a photo before it goes through the network."""

    short_side: int = Field(ge=8)
    """Short side in pixels."""
    long_side: int | None = Field(default=None, ge=8)
    """Upper limit of the long side in pixels, which takes precedence over `short_side`."""
    multiple: int = Field(default=1, ge=1)
    """Both sides are then stretched to the next multiple of this."""
    antialias: bool = True
    """Whether reducing filters the photo first. Plain bilinear interpolation was published for ADE20K."""


class Augmentation(Settings):
    """The augmentation of training samples, in this order."""

    short_side: int | None = Field(default=None, ge=8)
    """Short side in pixels before `scale`. None: the size of the photo."""
    long_side: int | None = Field(default=None, ge=8)
    """Upper limit of the long side in pixels, which takes precedence over `short_side`."""
    scale: Range = (0.5, 2.0)
    """Range of the random resize factor."""
    scale_distribution: Literal["log_uniform", "uniform"] = "log_uniform"
    antialias: bool = True
    """Whether reducing filters the photo first."""
    crop: Size = (512, 512)
    """Height and width of the crop. Smaller photos are padded; the labels there are unknown."""
    max_class_share: float = Field(default=1.0, gt=0, le=1)
    """A crop in which the most frequent class has at least this share of the labeled pixels is drawn again, at most 10
    times. 1: never."""
    flip: bool = True
    photometric: Literal["none", "yiq", "hsv"] = "yiq"
    """Distortion of brightness, contrast, saturation and hue: as one affine map of RGB, or step by step in HSV, as
    published for ADE20K."""

    @model_validator(mode="after")
    def _limit_of_what(self) -> Augmentation:
        if self.long_side is not None and self.short_side is None:
            raise SettingsError("limits the long side when short_side is set; set short_side too", "long_side")
        return self


class AnnotationSpec(Settings):
    """How the labels of one level of a source map into the taxonomy."""

    classes: dict[str, str | None] | None = None
    """Class of the source (its name, or the value in a mask) -> class of the taxonomy; null: unknown. None: the names
    agree."""
    supervision: Literal["broadcast", "pooled"] = "pooled"
    """How an image label trains a dense level: at every pixel, or through the mean of the logits."""
    implies: dict[LevelName, str | dict[str, str]] = {}
    """Other levels whose labels follow. A class name: every photo has it. A mapping `class -> class` of taxonomy
    classes: a class of this level implies a class of the other level (`*`: every labeled pixel)."""

    @field_validator("classes", mode="before")
    @classmethod
    def _values_are_names_too(cls, classes: Any) -> Any:
        """YAML reads the mask value `7` as a number; a key is text."""
        if isinstance(classes, dict):
            items = cast(dict[Any, Any], classes).items()
            return {str(key) if isinstance(key, int) else key: value for key, value in items}
        return classes


class MaskSpec(AnnotationSpec):
    """A level that is annotated with a mask per photo."""

    masks: str = "annotations"
    """Folder of the masks, beside the folder of the photos."""
    ignore: tuple[int, ...] = (255,)
    """Values of a mask that mean unknown."""
    required: bool = True
    """Whether a photo without a mask is an error; otherwise, this level of the photo is unknown."""


class ColumnSpec(AnnotationSpec):
    """A level that is annotated with an image label per photo, in a column of a table."""

    column: str = "label"
    """Column (or key) of the label; an empty cell or null means unknown."""


class TableSpec(ColumnSpec):
    """A level that is annotated with an image label per photo, in a table of its own."""

    table: str
    """CSV file with a header, or JSON Lines file, below the data directory; `{split}` stands for the split's folder."""
    photo_column: str = "photo"
    """Column (or key) of the photo: its path in the folder of the source."""
    required: bool = True
    """Whether a photo that the table lacks is an error; otherwise, this level of the photo is unknown."""


def _has_table(annotation: Any) -> str:
    keys = cast(dict[Any, Any], annotation) if isinstance(annotation, dict) else {}
    return "of_a_table" if "table" in keys or isinstance(annotation, TableSpec) else "other"


MaskOrTable = Annotated[
    Annotated[MaskSpec, Tag("other")] | Annotated[TableSpec, Tag("of_a_table")], Discriminator(_has_table)
]
FolderOrTable = Annotated[
    Annotated[AnnotationSpec, Tag("other")] | Annotated[TableSpec, Tag("of_a_table")], Discriminator(_has_table)
]


class SourceSpec(AnnotationSpec):
    """A data source: where its photos are, which levels they annotate, and how its labels map into the taxonomy.

    `annotations` lists the levels. A source with one level may write `level` instead, and the keys of the annotation
    directly into the source.
    """

    path: str
    """Folder below the data directory; `{split}` stands for the split's folder name."""
    splits: dict[Split, str] = {"train": "train", "val": "val", "test": "test"}
    """Split -> its folder (`{split}` in `path`); two folders are joined with `+`. A split not listed does not exist."""
    held_back: float = Field(default=0.0, ge=0, lt=1)
    """Share of the `train` photos that is kept out of training as split `held_back`, by a hash of the file name."""
    level: LevelName | None = None
    annotations: Mapping[LevelName, AnnotationSpec] = {}
    weight: float | None = Field(default=None, gt=0)
    """How often the source is sampled. None: by its number of photos (paper, section 3.2)."""
    batch_size: int = Field(default=8, ge=1)
    augmentation: Augmentation = Augmentation()
    test_resize: Resize | None = None
    """Size of a photo in testing. None: its own."""
    scored: bool = True
    """Whether the source counts in the scores of its levels; otherwise, it is only reported under `sources`."""

    @property
    def levels(self) -> dict[str, AnnotationSpec]:
        """The annotation of each level, whichever way the recipe writes it."""
        return dict(self.annotations) if self.level is None else {self.level: self}

    @property
    def supervision_of(self) -> dict[str, str]:
        """How image labels train dense levels: level -> `broadcast` or `pooled`."""
        return {
            level: annotation.supervision
            for own, annotation in self.levels.items()
            for level in (own, *annotation.implies)
        }

    def key_of(self, level: str) -> str:
        """Return the keys that lead from the source to the annotation of `level`, with a leading dot; may be empty."""
        return "" if self.level is not None else f".annotations.{level}"

    @model_validator(mode="after")
    def _names_its_levels_once(self) -> SourceSpec:
        if self.level is None and not self.annotations:
            raise SettingsError("a source needs its level; add `level: NAME`, or `annotations` for several levels")
        if self.level is not None and self.annotations:
            raise SettingsError("give `level` or `annotations`, not both", "level")
        if self.annotations:
            for key in self._shorthand() & self.model_fields_set:
                raise SettingsError("belongs to one level; move it into `annotations`", key)
        return self

    @classmethod
    def _shorthand(cls) -> set[str]:
        """Return the keys that describe the only level of a source without `annotations`."""
        own = {"path", "splits", "held_back", "level", "annotations", "weight", "batch_size", "augmentation"}
        return set(cls.model_fields) - own - {"test_resize", "scored", "kind"}


class MaskFolderSpec(SourceSpec, MaskSpec):
    """Photos in `images/`, and a folder of masks with the same base names for each level."""

    kind: Literal["mask_folder", "camvid"]
    annotations: Mapping[LevelName, MaskOrTable] = {}  # pyright: ignore[reportIncompatibleVariableOverride]


class LabelFolderSpec(SourceSpec):
    """A folder of photos per class. Further levels may come from tables."""

    kind: Literal["label_folder"]
    annotations: Mapping[LevelName, FolderOrTable] = {}

    @model_validator(mode="after")
    def _folders_are_of_one_level(self) -> LabelFolderSpec:
        if self.annotations and sum(not isinstance(spec, TableSpec) for spec in self.annotations.values()) != 1:
            raise SettingsError("the folders are the classes of one level; give all others a `table`", "annotations")
        return self


class LabelTableSpec(SourceSpec, ColumnSpec):
    """A table that lists photos and their image labels, one column per level."""

    kind: Literal["label_table"]
    table: str
    """As in `TableSpec`."""
    photo_column: str = "photo"
    annotations: Mapping[LevelName, ColumnSpec] = {}  # pyright: ignore[reportIncompatibleVariableOverride]

    @classmethod
    def _shorthand(cls) -> set[str]:
        return super()._shorthand() - {"table", "photo_column"}


AnySourceSpec = Annotated[MaskFolderSpec | LabelFolderSpec | LabelTableSpec, Field(discriminator="kind")]
"""The settings of a source; `kind` says which keys it has, and is the name of its module in `upernet.data.sources`."""


class LossSpec(Settings):
    """The loss. The default weights of the levels are those of arXiv 1807.10221, section 4.1."""

    stride: int = Field(default=1, ge=1)
    """Label maps are compared with the resized logits at every `stride`-th pixel (paper: 4)."""

    weights: dict[LevelName, float] = {kind.name: kind.loss_weight for kind in LEVEL_KINDS.values()}
    """level -> weight of its loss. Levels that are not listed keep their default."""
    auxiliary: float = Field(default=0.4, ge=0)
    """Factor of the loss of the auxiliary head."""
    weak: float = Field(default=1.0, ge=0)
    """Factor of the losses of implied labels."""
    class_weights: dict[LevelName, dict[str, float]] = {}
    """level -> class -> factor in the cross-entropy; 1 for classes that are not listed."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of image labels."""
    average: Literal["known", "all"] = "known"
    """Pixels that the loss of a map is averaged over: those with a label, or all, as published for ADE20K."""

    @field_validator("weights")
    @classmethod
    def _others_keep_the_papers_weight(cls, weights: dict[LevelName, float]) -> dict[LevelName, float]:
        return {**cls.model_fields["weights"].default, **weights}


class StageSpec(Settings):
    """A stage of the training: which sources are sampled and which parameters are trained."""

    name: str
    iterations: int = Field(ge=1)
    sources: tuple[str, ...] | dict[str, Annotated[float, Field(gt=0)]]
    """The sources that are sampled; as a mapping, with their weights in this stage."""
    trains: Literal["all"] | LevelName = "all"
    """What is trained: everything, or the head of a level with all else frozen in eval mode, as the paper does for
    texture (section 3.3)."""
    learning_rate: float = Field(gt=0)
    backbone_learning_rate_factor: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the learning rate from a layer of the backbone to the layer before it."""
    weight_decay: float = Field(default=1e-4, ge=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    warmup_iterations: int = Field(default=0, ge=0)
    power: float = Field(default=0.9, gt=0)
    """Exponent of the polynomial decay of the learning rate to zero."""
    freeze_norm: Literal["none", "backbone", "all"] = "none"
    """Batch norms that keep their running statistics in this stage; those of a batch come from one source."""
    frozen_backbone_stages: int = Field(default=0, ge=0)
    """Number of backbone features, from the shallowest, that are frozen: 1 freezes everything up to C2."""
    loss: LossSpec | None = None
    """The loss in this stage. None: that of the recipe."""
    augmentation: dict[str, Augmentation] = {}
    """source -> augmentation in this stage, where it differs from that of the source."""


class TrainingSpec(Settings):
    """The training: its stages, one after another, and what they share."""

    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_clipping: float | None = Field(default=1.0, gt=0)
    """Largest L2 norm of the gradient. None: no limit."""
    gradient_checkpointing: bool = False
    """Whether the backward pass recomputes the activations of the backbone, which takes less memory and more time.
    Batch norms in it then update their statistics twice per iteration."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights, which is the result. None: the last weights are."""
    initialize_from: str | None = None
    """Name of a recipe, or a checkpoint, whose weights are used where names and shapes agree."""
    workers: int = Field(default=1, ge=0)
    checkpoint_every: int = Field(default=200, ge=1)
    stages: tuple[StageSpec, ...]


class CalibrationSpec(Settings):
    """The thresholds below which a label is unsure, which are set on `held_back` photos."""

    precision: dict[LevelName, float] = {}
    """level -> share of the shown labels that must be right."""
    negatives: dict[LevelName, tuple[str, ...]] = {}
    """level -> sources whose photos show none of its classes, so that every label shown there is wrong."""


class Recipe(Settings):
    """A recipe: all settings of a model, its data, training and evaluation."""

    name: str = ""
    """Name of the recipe; set from the file name."""
    description: str
    taxonomy: str
    """Name of a bundled taxonomy, or the path of a YAML file relative to the recipe."""
    model: ModelSpec
    parse_short_side: int | None = Field(default=None, ge=32)
    """Short side in pixels to which larger photos are reduced before they are parsed. None: photos keep their size."""
    sources: dict[str, AnySourceSpec] = {}
    loss: LossSpec = LossSpec()
    training: TrainingSpec | None = None
    calibration: CalibrationSpec = CalibrationSpec()

    @model_validator(mode="after")
    def _stages_name_sources(self) -> Recipe:
        for number, stage in enumerate(self.training.stages if self.training else ()):
            for key in ("sources", "augmentation"):
                for source in getattr(stage, key):
                    if source not in self.sources:
                        known = ", ".join(self.sources) or "none"
                        message = f"stage {stage.name} names unknown source {source} (sources: {known})"
                        raise SettingsError(message, "training", "stages", number, key)
        return self


def list_recipes() -> list[str]:
    """Return the names of the bundled recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a bundled recipe by name, or any recipe by the path of its YAML file.

    Raises:
        UpernetError: There is no such recipe, or the file is wrong; the message names the file, line and key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
        if not path.is_file():
            raise UpernetError(
                f"unknown recipe {str(name_or_path)!r}: give the path of a .yaml file or one of "
                f"{', '.join(list_recipes())}."
            )
    recipe = read_settings(path, Recipe)
    taxonomy = recipe.taxonomy
    if taxonomy.endswith((".yaml", ".yml")):
        taxonomy = str(path.parent / taxonomy)
    return recipe.model_copy(update={"name": path.stem, "taxonomy": taxonomy})
