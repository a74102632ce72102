"""The sources of a prepared folder, as a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SOURCES: Mapping[str, tuple[str, ...]] = {
    "scenes_and_objects": ("scene", "object", "part"),
    "materials": ("material",),
    "textures": ("texture",),
}
"""Source -> its levels. A batch is from one source, as published: ADE20K with Pascal, or OpenSurfaces."""
_ANNOTATIONS = {
    "scene": "{column: scene}",
    "object": "{masks: object_mask, ignore: []}",
    "part": "{masks: part_mask}",
    "material": "{masks: material_mask}",
    "texture": "{column: texture}",
}


def recipe_text(rows: Sequence[Mapping[str, Any] | None], levels: Sequence[str], splits: Sequence[str]) -> str:
    """Return a recipe with a source for each group of levels that the rows of the index annotate."""
    annotated = {
        level
        for row in rows
        if row
        for level in levels
        if row.get(level) is not None or row.get(f"{level}_mask") is not None
    }
    lines = [
        "description: Broden+, as upernet data prepare broden wrote it.",
        "taxonomy: broden",
        "model: {backbone: resnet50, backbone_weights: timm, decoder_channels: 512}",
        "data: .",
        "sources:",
    ]
    for source, own in SOURCES.items():
        if present := [level for level in own if level in annotated]:
            lines += [f"  {source}:", "    kind: label_table", "    path: .", "    table: '{split}.jsonl'"]
            lines += [f"    splits: {{{', '.join(f'{split}: {split}' for split in splits)}}}", "    annotations:"]
            lines += [f"      {level}: {_ANNOTATIONS[level]}" for level in present]
    return "\n".join(lines) + "\n"
