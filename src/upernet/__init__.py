"""Unified Perceptual Parsing: one photo in; its scene, objects, parts, materials and textures out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from upernet.version import __version__ as __version__

if TYPE_CHECKING:
    from upernet.checkpoints import (
        ModelCard,
        UPerNet,
        create_backbone,
        create_classifier,
        create_model,
        load_backbone_weights,
        load_model,
        save_checkpoint,
    )
    from upernet.data.sample import Batch, Sample
    from upernet.data.transforms import augment, resize
    from upernet.decoding import label_map
    from upernet.discovery import Discovery, Relation, discover
    from upernet.errors import UpernetError
    from upernet.evaluation import ConfusionMatrix, EvaluationResult, evaluate
    from upernet.exporting import export
    from upernet.inference import LabelMap, Parse, Parser, load
    from upernet.inference.bench import bench
    from upernet.models import list_models
    from upernet.recipe import Augmentation, LossSpec, ModelSpec, Recipe, Resize, load_recipe
    from upernet.taxonomy import (
        Taxonomy,
        TaxonomyMapping,
        list_taxonomies,
        load_taxonomy,
        map_taxonomies,
        merge_taxonomies,
    )
    from upernet.training import ablate, train
    from upernet.training.losses import LevelLosses

__all__ = [
    "Augmentation",
    "Batch",
    "ConfusionMatrix",
    "Discovery",
    "EvaluationResult",
    "LabelMap",
    "LevelLosses",
    "LossSpec",
    "ModelCard",
    "ModelSpec",
    "Parse",
    "Parser",
    "Recipe",
    "Relation",
    "Resize",
    "Sample",
    "Taxonomy",
    "TaxonomyMapping",
    "UPerNet",
    "UpernetError",
    "ablate",
    "augment",
    "bench",
    "create_backbone",
    "create_classifier",
    "create_model",
    "discover",
    "evaluate",
    "export",
    "label_map",
    "list_models",
    "list_taxonomies",
    "load",
    "load_backbone_weights",
    "load_model",
    "load_recipe",
    "load_taxonomy",
    "map_taxonomies",
    "merge_taxonomies",
    "resize",
    "save_checkpoint",
    "train",
]

_HOME = {
    "Augmentation": "upernet.recipe",
    "Batch": "upernet.data.sample",
    "ConfusionMatrix": "upernet.evaluation",
    "Discovery": "upernet.discovery",
    "EvaluationResult": "upernet.evaluation",
    "LabelMap": "upernet.inference",
    "LevelLosses": "upernet.training.losses",
    "LossSpec": "upernet.recipe",
    "ModelCard": "upernet.checkpoints",
    "ModelSpec": "upernet.recipe",
    "Parse": "upernet.inference",
    "Parser": "upernet.inference",
    "Recipe": "upernet.recipe",
    "Relation": "upernet.discovery",
    "Resize": "upernet.recipe",
    "Sample": "upernet.data.sample",
    "Taxonomy": "upernet.taxonomy",
    "TaxonomyMapping": "upernet.taxonomy",
    "UPerNet": "upernet.checkpoints",
    "UpernetError": "upernet.errors",
    "ablate": "upernet.training",
    "augment": "upernet.data.transforms",
    "bench": "upernet.inference.bench",
    "create_backbone": "upernet.checkpoints",
    "create_classifier": "upernet.checkpoints",
    "create_model": "upernet.checkpoints",
    "discover": "upernet.discovery",
    "evaluate": "upernet.evaluation",
    "export": "upernet.exporting",
    "label_map": "upernet.decoding",
    "list_models": "upernet.models",
    "list_taxonomies": "upernet.taxonomy",
    "load": "upernet.inference",
    "load_backbone_weights": "upernet.checkpoints",
    "load_model": "upernet.checkpoints",
    "load_recipe": "upernet.recipe",
    "load_taxonomy": "upernet.taxonomy",
    "map_taxonomies": "upernet.taxonomy",
    "merge_taxonomies": "upernet.taxonomy",
    "resize": "upernet.data.transforms",
    "save_checkpoint": "upernet.checkpoints",
    "train": "upernet.training",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import upernet` and `upernet --help` stay fast, torch comes when a model is needed."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'upernet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
