"""Unified Perceptual Parsing: one photo in; its scene, objects, parts, materials and textures out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upernet.checkpoints import load_model
    from upernet.errors import UpernetError
    from upernet.inference import Parse, Parser, load
    from upernet.models import UPerNet, create_model, list_models
    from upernet.taxonomy import Taxonomy

__version__ = "0.1.0"
__all__ = [
    "Parse",
    "Parser",
    "Taxonomy",
    "UPerNet",
    "UpernetError",
    "create_model",
    "list_models",
    "load",
    "load_model",
]

_HOME = {
    "Parse": "upernet.inference",
    "Parser": "upernet.inference",
    "Taxonomy": "upernet.taxonomy",
    "UPerNet": "upernet.models",
    "UpernetError": "upernet.errors",
    "create_model": "upernet.models",
    "list_models": "upernet.models",
    "load": "upernet.inference",
    "load_model": "upernet.checkpoints",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import upernet` and `upernet --help` stay fast, torch comes when a model is needed."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'upernet' has no attribute {name!r}")
