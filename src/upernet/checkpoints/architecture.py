"""Inference of the architecture from the names and shapes of tensors.

Files of other programs do not describe their network. Their tensors are renamed first (`formats/`), so that one set of
rules serves all formats.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from upernet.models import backbones as models
from upernet.taxonomy import LEVELS

BACKBONES = frozenset(f"backbone.{marker}" for family in models.BACKBONES for marker in family.markers)
"""Tensors that show a known kind of backbone, under our names."""


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the backbone that tensors under our names belong to, or None if it has no name."""
    own = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    return models.recognize_backbone(own)


def decoder_of(tensors: Mapping[str, Tensor]) -> dict[str, int | None]:
    """Return the widths that a ModelSpec needs, from tensors under our names; None: there is no auxiliary head."""
    width, pooled = _size(tensors, "ppm.bottleneck.0.weight"), _size(tensors, "ppm.pooled.0.0.weight")
    return {
        "head_channels": None if "heads.object.conv.0.weight" in tensors else 0,
        "decoder_channels": width,
        "pool_channels": pooled if pooled not in (0, width) else None,
        "auxiliary_channels": _size(tensors, "auxiliary.conv.0.weight") or None,
    }


def levels_of(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the levels whose heads are among tensors under our names."""
    return tuple(level for level in LEVELS if f"heads.{level}.classifier.weight" in tensors)


def is_upernet(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether tensors under our names include the three parts of UPerNet's decoder."""
    return {"ppm.bottleneck.0.weight", "fpn.output.0.0.weight", "fusion.conv.0.weight"} <= tensors.keys()


def has_feature_norms(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether tensors under our names include layer norms on the backbone's features."""
    return "backbone.norms.0.weight" in tensors


def num_classes_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of channels of the object logits; 0 without an object head."""
    return _size(tensors, "heads.object.classifier.weight")


def _size(tensors: Mapping[str, Tensor], key: str) -> int:
    return tensors[key].shape[0] if key in tensors and tensors[key].ndim else 0
