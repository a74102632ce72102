"""Renaming of tensors by rules, and the rules for the decoder that mmsegmentation and transformers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern for the start of a name, and its replacement as `re.sub` takes it."""

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
"""Names of UPerNet's decoder and heads in mmsegmentation and in transformers -> ours."""


def rename(tensors: Mapping[str, Tensor], rules: Sequence[Rule], ignored: str) -> dict[str, Tensor]:
    """Return `tensors` under the names that `rules` give.

    Args:
        tensors: tensors by name.
        rules: the first rule whose pattern matches the start of a name applies; other names stay as they are.
        ignored: pattern of names to leave out.
    """
    compiled = [(re.compile(pattern), ours) for pattern, ours in rules]
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not re.search(ignored, key):
            pattern, ours = next(((p, ours) for p, ours in compiled if p.match(key)), (None, ""))
            renamed[pattern.sub(ours, key, count=1) if pattern else key] = value
    return renamed
