"""Weights on disk: own and foreign formats, the shipped models, ImageNet weights for backbones."""

from upernet.checkpoints.loading import (
    checkpoint_in,
    initialize_model,
    load_checkpoint,
    load_model,
    published_checkpoint,
    save_checkpoint,
    shipped_checkpoint,
)
from upernet.checkpoints.download import fetch, is_downloaded
from upernet.checkpoints.imagenet import load_backbone_weights
from upernet.checkpoints.zoo import ZooEntry, list_zoo, zoo_entry

__all__ = [
    "ZooEntry",
    "checkpoint_in",
    "fetch",
    "initialize_model",
    "is_downloaded",
    "list_zoo",
    "load_backbone_weights",
    "load_checkpoint",
    "load_model",
    "published_checkpoint",
    "save_checkpoint",
    "shipped_checkpoint",
    "zoo_entry",
]
