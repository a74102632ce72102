"""Recipe: one YAML file that says how a model is built, trained and scored."""

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
    """The texture head: `depth` 3x3 convolutions of `channels` on backbone features, gradient stopped (paper, 3.3)."""

    features: tuple[Literal["C2", "C3", "C4", "C5"], ...] = ("C2",)
    """Starts with C2, whose size the logits have."""
    channels: int = Field(default=128, ge=1)
    depth: int = Field(default=4, ge=1, le=64)

    @field_validator("features")
    @classmethod
    def _starts_with_c2(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if features[:1] != ("C2",) or len(set(features)) < len(features):
            raise ValueError("must start with C2 and name no feature twice")
        return features


class ModelSpec(Settings):
    """Architecture. `backbone` is a name that `create_backbone` accepts; widths are channel counts."""

    backbone: str
    backbone_options: dict[str, int | float | bool | str | tuple[int, ...] | None] = {}
    """Values that replace those of the backbone of that name, if it has options (InternImage: `InternImageSpec`)."""
    backbone_weights: str | None = None
    """Where ImageNet weights come from: `timm` (its own download), `package:NAME` (a Python package), `zoo` (the
    published file of an InternImage backbone), or a file."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth: probability that the last block of the backbone is skipped for a photo (linear from 0)."""
    feature_norms: bool = False
    """A layer norm on each of C2..C5, as mmsegmentation and transformers have it after Swin and ConvNeXt."""
    decoder_channels: int = Field(default=512, ge=1)
    pool_scales: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(1, 2, 3, 6), max_length=16)
    head_channels: int | None = Field(default=None, ge=0)
    """Width of the 3x3 convolution that opens the scene, object, part and material heads; None: the decoder's; 0: the
    classifier alone, as published for ADE20K."""
    texture: TextureSpec = TextureSpec()
    auxiliary_channels: int | None = Field(default=256, ge=1)
    """Width of the auxiliary FCN head on C4, used in training only; None: no such head."""
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Resize(Settings):
    """A photo's size before it goes through the network."""

    short_side: int = Field(ge=8)
    """Pixels that the short side is brought to..."""
    long_side: int | None = Field(default=None, ge=8)
    """...unless the long side would get longer than this; then the long side is brought to it."""
    multiple: int = Field(default=1, ge=1)
    """Both sides are then stretched up to a multiple of this."""
    antialias: bool = True
    """False: plain bilinear interpolation when reducing, too, as published for ADE20K."""


class Augmentation(Settings):
    """What happens to a training sample of a source, in this order."""

    short_side: int | None = Field(default=None, ge=8)
    """Pixels that the short side is brought to before `scale`; None: keep the photo's own size."""
    long_side: int | None = Field(default=None, ge=8)
    """Limit of the long side when the short side is brought to `short_side`."""
    scale: Range = (0.5, 2.0)
    """Range of the random resize factor."""
    scale_distribution: Literal["log_uniform", "uniform"] = "log_uniform"
    antialias: bool = True
    """Of reduced photos."""
    crop: Size = (512, 512)
    """Height and width of the crop; smaller photos are padded (labels: unknown)."""
    max_class_share: float = Field(default=1.0, gt=0, le=1)
    """A crop whose most frequent class has this share of its labelled pixels or more is drawn again, at most 10 times;
    1: never."""
    flip: bool = True
    photometric: Literal["none", "yiq", "hsv"] = "yiq"
    """Brightness, contrast, saturation, hue: as one affine map of RGB, or step by step in HSV as published for
    ADE20K."""

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
    """Share of the `train` photos that is kept out of training as split `held_back`, chosen by a hash of the file name."""
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
    annotations: Mapping[LevelName, MaskOrTable] = {}


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
    annotations: Mapping[LevelName, ColumnSpec] = {}

    @classmethod
    def _shorthand(cls) -> set[str]:
        return super()._shorthand() - {"table", "photo_column"}


AnySourceSpec = Annotated[MaskFolderSpec | LabelFolderSpec | LabelTableSpec, Field(discriminator="kind")]
"""The settings of a source; `kind` says which keys it has, and is the name of its module in `upernet.data.sources`."""


class LossSpec(Settings):
    """Weights of the levels (paper, 4.1: object 1, part 0.5, scene 0.25, material 1) and of the auxiliary head."""

    stride: int = Field(default=1, ge=1)
    """Pixel maps are compared with the logits at every `stride`-th pixel, to which those are resized (paper: 4)."""

    weights: dict[LevelName, float] = {kind.name: kind.loss_weight for kind in LEVEL_KINDS.values()}
    """Level -> weight of its loss. A level that is not listed keeps its default, which is the paper's weight."""
    auxiliary: float = Field(default=0.4, ge=0)
    weak: float = Field(default=1.0, ge=0)
    """Factor of the losses of implied labels."""
    class_weights: dict[LevelName, dict[str, float]] = {}
    """Factors of single classes in a level's cross entropy (others 1)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of image labels."""
    average: Literal["known", "all"] = "known"
    """Pixels that the loss of a map is averaged over: those with a label, or all (published for ADE20K)."""

    @field_validator("weights")
    @classmethod
    def _others_keep_the_papers_weight(cls, weights: dict[LevelName, float]) -> dict[LevelName, float]:
        return {**cls.model_fields["weights"].default, **weights}


class StageSpec(Settings):
    """A part of the schedule: which sources are drawn and which parameters learn."""

    name: str
    iterations: int = Field(ge=1)
    sources: tuple[str, ...] | dict[str, Annotated[float, Field(gt=0)]]
    """Sources that are drawn; as a mapping, with their weights in this stage."""
    trains: Literal["all"] | LevelName = "all"
    """A level: its head alone, everything else frozen and in eval mode (the paper does so with texture, 3.3)."""
    learning_rate: float = Field(gt=0)
    backbone_learning_rate_factor: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the learning rate from a block of an InternImage backbone to the block before it."""
    weight_decay: float = Field(default=1e-4, ge=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    warmup_iterations: int = Field(default=0, ge=0)
    power: float = Field(default=0.9, gt=0)
    """Exponent of the polynomial decay of the learning rate to zero."""
    freeze_norm: Literal["none", "backbone", "all"] = "none"
    """Batch norms that keep their running statistics in this stage (those of a batch are of one source)."""
    frozen_backbone_stages: int = Field(default=0, ge=0)
    """Number of backbone features, from the shallowest, that nothing trains: 1 freezes everything up to C2."""
    loss: LossSpec | None = None
    """The loss of this stage; None: the recipe's."""
    augmentation: dict[str, Augmentation] = {}
    """Source -> augmentation in this stage, where it is another than the source's own."""


class TrainingSpec(Settings):
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_clipping: float | None = Field(default=1.0, gt=0)
    """Largest L2 norm of the gradient; None: no limit."""
    gradient_checkpointing: bool = False
    """Compute the backbone's activations again in the backward pass: less memory, more time. Batch norms in it then
    update their statistics twice per iteration."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights that is scored and shipped; None: the last weights."""
    initialize_from: str | None = None
    """Recipe name or checkpoint whose weights are taken where names and shapes agree."""
    workers: int = Field(default=1, ge=0)
    checkpoint_every: int = Field(default=200, ge=1)
    stages: tuple[StageSpec, ...]


class CalibrationSpec(Settings):
    """Thresholds below which a level's label is shown as unsure, set on `held_back` photos."""

    precision: dict[LevelName, float] = {}
    """Level -> share of the shown labels that must be right."""
    negatives: dict[LevelName, tuple[str, ...]] = {}
    """Level -> sources whose photos show none of its classes: whatever is shown there is wrong."""


class Recipe(Settings):
    """Everything that makes a published or shipped model."""

    name: str = ""
    """Set from the file name."""
    description: str
    taxonomy: str
    """Name of a shipped taxonomy, or the path of a YAML file beside the recipe."""
    model: ModelSpec
    parse_short_side: int | None = Field(default=None, ge=32)
    """Pixels that the short side of a photo is brought to before it is parsed; None: photos keep their size."""
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
    """Names of the recipes inside the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by the name of a shipped one, or by the path of a YAML file.

    Raises:
        UpernetError: no such recipe, or the file does not fit (the message names file, line and key).
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
