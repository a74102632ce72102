"""Renaming of tensors by rules, and the names of the decoder in mmsegmentation and transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern for the start of a name, and its replacement as `re.sub` takes it."""
Names = tuple[str, tuple[str, ...]]
"""The start of a name here, and its counterparts in another program: all are read, the first is written. {} stands for
a number."""

DECODER: Sequence[Names] = [
    (f"{ours}{number}.", tuple(f"{theirs}{layer}." for layer in layers))
    for ours, theirs in (
        ("ppm.pooled.{}.", "decode_head.psp_modules.{}.1."),
        ("ppm.bottleneck.", "decode_head.bottleneck."),
        ("fpn.lateral.{}.", "decode_head.lateral_convs.{}."),
        ("fpn.output.{}.", "decode_head.fpn_convs.{}."),
        ("fusion.conv.", "decode_head.fpn_bottleneck."),
        ("auxiliary.conv.", "auxiliary_head.convs.0."),
    )
    for number, layers in ((0, ("conv",)), (1, ("batch_norm", "bn")))
] + [
    ("heads.object.classifier.", ("decode_head.classifier.", "decode_head.conv_seg.")),
    ("auxiliary.classifier.", ("auxiliary_head.classifier.", "auxiliary_head.conv_seg.")),
]
"""UPerNet's decoder and heads; the first of two names is that of transformers."""


def reading(names: Sequence[Names]) -> list[Rule]:
    """Return the rules from their names to ours."""
    return [(_pattern(their), _replacement(ours)) for ours, theirs in names for their in theirs]


def writing(names: Sequence[Names]) -> list[Rule]:
    """Return the rules from our names to theirs."""
    return [(_pattern(ours), _replacement(theirs[0])) for ours, theirs in names]


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{\}", r"(\d+)")


def _replacement(name: str) -> str:
    numbers = count(1)
    return re.sub(r"\{\}", lambda _: rf"\{next(numbers)}", name)


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
