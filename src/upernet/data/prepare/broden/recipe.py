"""The sources of a prepared folder, as a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upernet.data.prepare.broden.converting import unknown_value
from upernet.data.prepare.broden.sources import SPLITS
from upernet.taxonomy import Taxonomy

SOURCES: Mapping[str, tuple[str, ...]] = {
    "scenes_and_objects": ("scene", "object", "part"),
    "materials": ("material",),
    "textures": ("texture",),
}
"""Source -> its levels. A batch is from one source, as published: ADE20K with Pascal, or OpenSurfaces."""
_ANNOTATIONS = {
    "scene": "{column: scene}",
    "object": "{masks: object_mask, ignore: []}",
    "part": "{masks: part_mask, ignore: [UNKNOWN]}",
    "material": "{masks: material_mask, ignore: []}",
    "texture": "{column: texture}",
}


_TERMS = {
    "scenes_and_objects": "ADE20K, and Pascal-Context and Pascal-Part on photos of VOC2010",
    "materials": "OpenSurfaces",
    "textures": "Describable Textures Dataset",
}


def recipe_text(rows: Sequence[tuple[str, Mapping[str, Any]]], taxonomy: Taxonomy, bundled: bool) -> str:
    """Return a recipe with a source for each group of levels that the rows of the index annotate.

    Args:
        rows: Split and content of each row.
        taxonomy: The taxonomy of the labels.
        bundled: Whether the taxonomy comes with upernet; otherwise, it is in taxonomy.yaml.
    """
    annotated = {
        (level, split)
        for split, row in rows
        for level in taxonomy.levels
        if row.get(level) is not None or row.get(f"{level}_mask") is not None
    }
    lines = [
        "description: Broden+, as upernet data prepare broden wrote it.",
        f"taxonomy: {taxonomy.name if bundled else 'taxonomy.yaml'}",
        "model: {backbone: resnet50, backbone_weights: timm, decoder_channels: 512}",
        "data: .",
        "sources:",
    ]
    for source, own in SOURCES.items():
        present = [level for level in own if any((level, split) in annotated for split in SPLITS)]
        splits = [split for split in SPLITS if any((level, split) in annotated for level in own)]
        if not present:
            continue
        lines += [f"  {source}:", "    kind: label_table", "    path: .", "    table: '{split}.jsonl'"]
        lines += [
            f"    splits: {{{', '.join(f'{split}: {split}' for split in splits)}}}",
            f"    terms: {{name: '{_TERMS[source]}', license: research and non-commercial use, research_only: true}}",
        ]
        lines.append("    annotations:")
        for level in present:
            unknown = str(unknown_value(taxonomy, level))
            lines.append(f"      {level}: {_ANNOTATIONS[level].replace('UNKNOWN', unknown)}")
    return "\n".join(lines) + "\n"
