"""Checkpoints: finding, reading and writing weights; bundled and published models; ImageNet backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upernet.checkpoints.card import ModelCard, card_of, check_card
from upernet.checkpoints.classification import create_classifier
from upernet.checkpoints.finding import (
    check_reference,
    checkpoint_in,
    find_checkpoint,
    published_checkpoint,
    recipe_of,
    shipped_checkpoint,
)
from upernet.checkpoints.imagenet import check_backbone_weights, load_backbone_weights
from upernet.checkpoints.loading import UPerNet, initialize_model, load_checkpoint, load_model
from upernet.checkpoints.native import save_checkpoint
from upernet.checkpoints.pretrained import create_backbone, create_model
from upernet.checkpoints.reading import EXPORTED, exported_suffix
from upernet.checkpoints.terms import refuse_research_weights
from upernet.checkpoints.zoo import ZooEntry, is_downloaded, list_zoo, zoo_entry

if TYPE_CHECKING:
    from upernet.checkpoints.fetching import fetch

__all__ = [
    "EXPORTED",
    "ModelCard",
    "UPerNet",
    "ZooEntry",
    "card_of",
    "check_backbone_weights",
    "check_card",
    "check_reference",
    "checkpoint_in",
    "create_backbone",
    "create_classifier",
    "create_model",
    "exported_suffix",
    "fetch",
    "find_checkpoint",
    "initialize_model",
    "is_downloaded",
    "list_zoo",
    "load_backbone_weights",
    "load_checkpoint",
    "load_model",
    "published_checkpoint",
    "recipe_of",
    "refuse_research_weights",
    "save_checkpoint",
    "shipped_checkpoint",
    "zoo_entry",
]


def __getattr__(name: str) -> Any:
    """Import `fetch` on first use, because the Hub's client is slow to import."""
    if name == "fetch":
        from upernet.checkpoints.fetching import fetch

        return fetch
    raise AttributeError(f"module 'upernet.checkpoints' has no attribute {name!r}")
