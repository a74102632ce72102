"""Unified Perceptual Parsing: one photo in; its scene, objects, parts, materials and textures out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upernet.checkpoints import load_model
    from upernet.errors import UpernetError
    from upernet.evaluation import evaluate
    from upernet.inference import Parse, Parser, load
    from upernet.inference.bench import bench
    from upernet.models import UPerNet, create_model, list_models
    from upernet.recipe import Recipe, load_recipe
    from upernet.taxonomy import Taxonomy
    from upernet.training import train

__version__ = "0.1.0"
__all__ = [
    "Parse",
    "Parser",
    "Recipe",
    "Taxonomy",
    "UPerNet",
    "UpernetError",
    "bench",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "load_model",
    "load_recipe",
    "train",
]

_HOME = {
    "Parse": "upernet.inference",
    "Parser": "upernet.inference",
    "Recipe": "upernet.recipe",
    "Taxonomy": "upernet.taxonomy",
    "UPerNet": "upernet.models",
    "UpernetError": "upernet.errors",
    "bench": "upernet.inference.bench",
    "create_model": "upernet.models",
    "evaluate": "upernet.evaluation",
    "list_models": "upernet.models",
    "load": "upernet.inference",
    "load_model": "upernet.checkpoints",
    "load_recipe": "upernet.recipe",
    "train": "upernet.training",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import upernet` and `upernet --help` stay fast, torch comes when a model is needed."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'upernet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
