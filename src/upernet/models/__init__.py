"""The network: backbone, decoder, heads."""

from upernet.models.fold import Precision, prepare_for_inference
from upernet.models.registry import build_model, list_models
from upernet.models.upernet import AUXILIARY, Preprocess, UPerNet

__all__ = [
    "AUXILIARY",
    "Precision",
    "Preprocess",
    "UPerNet",
    "build_model",
    "list_models",
    "prepare_for_inference",
]
