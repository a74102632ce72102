"""Settings of the loss, the training and the calibration."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator

from upernet.recipe.augmentation import Augmentation
from upernet.recipe.values import Factor, Iterations, PathText, PositiveFactor, Probability, Share
from upernet.settings import Name, Number, Settings, Whole
from upernet.taxonomy import LEVEL_KINDS, LevelName


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


class OptimizerSpec(Settings):
    """Settings of a stage that go with another optimizer; None: those of the stage."""

    learning_rate: Annotated[Number, Field(gt=0, le=1000)] | None = None
    """`learning_rate` of the stage."""
    weight_decay: Annotated[Number, Field(ge=0, le=1000)] | None = None
    """`weight_decay` of the stage."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] | None = None
    """`layer_decay` of the stage."""
    warmup_iterations: Annotated[Whole, Field(ge=0, le=100_000_000)] | None = None
    """`warmup_iterations` of the stage."""


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
    by_optimizer: dict[Literal["sgd", "adamw"], OptimizerSpec] = {}
    """Optimizer -> settings that replace those of the stage if it is `optimizer`, so that a recipe can be trained with
    another optimizer by changing one key. To change one of them, set it here."""
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

    def with_own_optimizer(self) -> StageSpec:
        """Return the stage with the settings that `by_optimizer` has for its optimizer."""
        own = self.by_optimizer.get(self.optimizer)
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True) | {"by_optimizer": {}})


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
    negatives: dict[LevelName, dict[Name, tuple[Name, ...]]] = {}
    """Level -> source -> classes that its photos do not contain, so that their labels are wrong there; `*` stands for
    all classes. A list of sources means all classes of the level."""

    familiar: tuple[Name, ...] = ()
    """Sources whose training photos say which photos are familiar; see `Parse.familiarity`. Without any, a parse
    does not say how familiar a photo is."""

    @field_validator("negatives", mode="before")
    @classmethod
    def _lists_and_stars_mean_all_classes(cls, negatives: Any) -> Any:
        if not isinstance(negatives, dict):
            return negatives
        levels = cast("dict[Any, Any]", negatives)
        return {level: _all_classes(sources) for level, sources in levels.items()}


def _all_classes(sources: Any) -> Any:
    """Bring the sources of a level to the form `source -> classes`."""
    if isinstance(sources, (list, tuple)) and all(isinstance(name, str) for name in cast("list[Any]", sources)):
        return dict.fromkeys(cast("list[Any]", sources), ("*",))
    if isinstance(sources, dict):
        items = cast("dict[Any, Any]", sources).items()
        return {name: ("*",) if classes == "*" else classes for name, classes in items}
    return sources
