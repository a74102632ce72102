"""Weights on disk: the own format, the shipped models, ImageNet weights for backbones."""

from upernet.checkpoints.checkpoint import (
    initialize_model,
    load_checkpoint,
    load_model,
    save_checkpoint,
    shipped_checkpoint,
)
from upernet.checkpoints.imagenet import load_backbone_weights

__all__ = [
    "initialize_model",
    "load_backbone_weights",
    "load_checkpoint",
    "load_model",
    "save_checkpoint",
    "shipped_checkpoint",
]
