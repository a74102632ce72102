"""Renaming of tensors: rules, and the decoder's names that mmsegmentation and transformers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

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
