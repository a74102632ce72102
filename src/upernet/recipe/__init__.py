"""Recipes: YAML files that describe how a model is built, trained and scored."""

from upernet.recipe.annotations import (
    AnnotationSpec,
    MaskColumnSpec,
    MaskSpec,
    MaskValueSpec,
    PseudoLabelSpec,
    TableColumnSpec,
    TableSpec,
)
from upernet.recipe.augmentation import Augmentation, PasteSpec, PublishedTesting, Resize
from upernet.recipe.model import ImageHeadSpec, ModelSpec, TextureSpec
from upernet.recipe.recipe import RECIPES, Recipe, data_folder, list_recipes, load_recipe, without_other_levels
from upernet.recipe.sources import (
    AnySourceSpec,
    CamvidSpec,
    CollageSpec,
    FolderSpec,
    LabelFolderSpec,
    LabelTableSpec,
    MaskFolderSpec,
    PolygonsSpec,
    SourceSpec,
)
from upernet.recipe.terms import TermsSpec
from upernet.recipe.training import CalibrationSpec, LossSpec, OptimizerSpec, StageSpec, TrainingSpec, ValidationSpec
from upernet.recipe.values import (
    MetricRules,
    Size,
    Split,
)

__all__ = [
    "RECIPES",
    "AnnotationSpec",
    "AnySourceSpec",
    "Augmentation",
    "CalibrationSpec",
    "CamvidSpec",
    "CollageSpec",
    "FolderSpec",
    "ImageHeadSpec",
    "LabelFolderSpec",
    "LabelTableSpec",
    "LossSpec",
    "MaskColumnSpec",
    "MaskFolderSpec",
    "MaskSpec",
    "MaskValueSpec",
    "MetricRules",
    "ModelSpec",
    "OptimizerSpec",
    "PasteSpec",
    "PolygonsSpec",
    "PseudoLabelSpec",
    "PublishedTesting",
    "Recipe",
    "Resize",
    "Size",
    "SourceSpec",
    "Split",
    "StageSpec",
    "TableColumnSpec",
    "TableSpec",
    "TermsSpec",
    "TextureSpec",
    "TrainingSpec",
    "ValidationSpec",
    "data_folder",
    "list_recipes",
    "load_recipe",
    "without_other_levels",
]
