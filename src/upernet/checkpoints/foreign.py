"""What files of other programs have in common: the decoder's names, and how a network is told by its tensors.

A foreign file is renamed first (`mmsegmentation.py`, `huggingface.py`); what its network is, is then read from the
tensors under own names, in one way for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from upernet.models import backbones as models

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern that a name begins with, and what takes its place, as `re.sub` has it."""

_CONV = [(r"conv\.", "0."), (r"(?:bn|batch_norm)\.", "1.")]
DECODER: Sequence[Rule] = [
    (pattern + theirs, own + ours)
    for pattern, own in (
        (r"decode_head\.psp_modules\.(\d)\.1\.", r"ppm.pooled.\1."),
        (r"decode_head\.bottleneck\.", "ppm.bottleneck."),
        (r"decode_head\.lateral_convs\.(\d)\.", r"fpn.lateral.\1."),
        (r"decode_head\.fpn_convs\.(\d)\.", r"fpn.output.\1."),
        (r"decode_head\.fpn_bottleneck\.", "fusion.conv."),
        (r"auxiliary_head\.convs\.0\.", "auxiliary.conv."),
    )
    for theirs, ours in _CONV
] + [
    (r"decode_head\.(?:conv_seg|classifier)\.", "heads.object.classifier."),
    (r"auxiliary_head\.(?:conv_seg|classifier)\.", "auxiliary.classifier."),
]
"""Names of UPerNet's decoder and heads in mmsegmentation and in transformers."""

BACKBONES = frozenset(f"backbone.{marker}" for family in models.BACKBONES for marker in family.markers)
"""Tensors that show a known kind of backbone, under own names."""


def rename(tensors: Mapping[str, Tensor], rules: Sequence[Rule], ignored: str) -> dict[str, Tensor]:
    """`tensors` under own names: the first rule whose pattern a name begins with changes it.

    Names that match the pattern `ignored` are left out; names that no rule knows stay as they are.
    """
    compiled = [(re.compile(pattern), own) for pattern, own in rules]
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not re.search(ignored, key):
            pattern, own = next(((p, own) for p, own in compiled if p.match(key)), (None, ""))
            renamed[pattern.sub(own, key, count=1) if pattern else key] = value
    return renamed


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the backbone that tensors under own names belong to, or None if it has no name."""
    own = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    return models.recognize_backbone(own)


def decoder_of(tensors: Mapping[str, Tensor]) -> dict[str, int | None]:
    """The widths of a ModelSpec, from tensors under own names; without an auxiliary head its width is None."""
    return {
        "head_channels": 0,
        "decoder_channels": _size(tensors, "ppm.bottleneck.0.weight"),
        "auxiliary_channels": _size(tensors, "auxiliary.conv.0.weight") or None,
    }


def num_classes_of(tensors: Mapping[str, Tensor]) -> int:
    """Channels of the object logits; 0 without an object head."""
    return _size(tensors, "heads.object.classifier.weight")


def _size(tensors: Mapping[str, Tensor], key: str) -> int:
    return tensors[key].shape[0] if key in tensors and tensors[key].ndim else 0
