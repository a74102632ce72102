"""Checkpoints of CSAILVision/unifiedparsing, the released code of Unified Perceptual Parsing; also its backbones.

A model is two files, one of the encoder and one of the decoder; `halves.py` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from upernet.checkpoints.formats.rename import Rule, rename
from upernet.checkpoints.reading import Weights

NAME = "unifiedparsing"
ENCODER, DECODER = "encoder.", "decoder."
"""Prefixes of the tensors of each half in a state dict of both."""
ENCODER_MARKERS = frozenset({"conv3.weight", "layer1.0.conv3.weight"})
"""Tensors of every encoder: of the deep stem, and of its first block."""
DECODER_MARKERS = frozenset({"ppm_last_conv.0.weight", "conv_fusion.0.weight"})
"""Tensors of every decoder."""
RULES: list[Rule] = [
    (r"encoder\.", "backbone."),
    (r"decoder\.ppm_conv\.", "ppm.pooled."),
    (r"decoder\.ppm_last_conv\.", "ppm.bottleneck."),
    (r"decoder\.fpn_in\.", "fpn.lateral."),
    (r"decoder\.fpn_out\.(\d)\.0\.", r"fpn.output.\1."),
    (r"decoder\.conv_fusion\.", "fusion.conv."),
    (r"decoder\.(scene|object|part|material)_head\.0\.", r"heads.\1.conv."),
    (r"decoder\.scene_head\.2\.", "heads.scene.classifier."),
    (r"decoder\.(object|part|material)_head\.1\.", r"heads.\1.classifier."),
]
IGNORED = (
    r"\._(tmp_running_mean|tmp_running_var|running_iter)$"  # of its own batch norm; running_mean holds the result
    r"|^encoder\.fc\."  # ImageNet classifier
)


def is_encoder(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of an encoder."""
    return tensors.keys() >= ENCODER_MARKERS


def is_decoder(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of a decoder."""
    return tensors.keys() >= DECODER_MARKERS


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of both halves, or of an encoder alone."""
    return is_encoder(tensors) or tensors.keys() >= {f"{ENCODER}{key}" for key in ENCODER_MARKERS}


def translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names; the 1x1 convolution that classifies scenes becomes a linear layer."""
    if is_encoder(tensors):
        tensors = {f"{ENCODER}{key}": value for key, value in tensors.items()}
    ours = rename(tensors, RULES, IGNORED)
    classifier = ours.get("heads.scene.classifier.weight")
    if classifier is not None and classifier.ndim == 4 and classifier.shape[2:] == (1, 1):
        ours["heads.scene.classifier.weight"] = classifier.flatten(1)
    return ours


def class_names(weights: Weights) -> object:
    """Return None: the files do not name their classes."""
    return None
