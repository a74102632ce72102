"""Leaving out what a recipe says about some levels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

Values = dict[str, Any]
"""Settings as JSON types."""


def drop_other_levels(recipe: Values, levels: Collection[str]) -> None:
    """Remove from the settings of a recipe, in place, what they say about levels that are not among `levels`."""
    sources: Values = recipe.get("sources", {})
    for name, source in list(sources.items()):
        if not _keep_levels(source, levels):
            del sources[name]
    for name, source in list(sources.items()):
        if source["kind"] == "collage" and not {source["textures"], *source["backgrounds"]} <= sources.keys():
            del sources[name]
    training: Values | None = recipe.get("training")
    if training is not None:
        training["stages"] = [stage for stage in training["stages"] if _keep_sources(stage, levels, sources)]
        validation: Values = training.get("validation") or {}
        if (validation.get("metric") or "").partition(".")[0] not in ("", *levels):
            del validation["metric"]
        if not training["stages"]:
            del recipe["training"]
    for loss in (
        recipe.get("loss"),
        *(stage.get("loss") for stage in (recipe.get("training") or {}).get("stages", ())),
    ):
        _filter(loss or {}, "class_weights", levels)
    calibration: Values = recipe.get("calibration", {})
    for key in ("target_precision", "negatives"):
        _filter(calibration, key, levels)
    for level in calibration.get("negatives", {}):
        _filter(calibration["negatives"], level, sources)
    if "familiar" in calibration:
        calibration["familiar"] = [name for name in calibration["familiar"] if name in sources]


def _keep_levels(source: Values, levels: Collection[str]) -> bool:
    """Remove other levels from a source; return whether any is left."""
    own = [source.get("level", "texture" if source["kind"] == "collage" else None)]
    if "annotations" in source:
        _filter(source, "annotations", levels)
        own = list(source["annotations"])
    _filter(source, "pseudo_labels", levels)
    for annotation in (source, *source.get("annotations", {}).values()):
        _filter(annotation, "implies", levels)
    return any(level in levels for level in own)


def _keep_sources(stage: Values, levels: Collection[str], sources: Values) -> bool:
    """Remove dropped sources from a stage; return whether it still trains something."""
    if isinstance(stage["sources"], dict):
        _filter(stage, "sources", sources)
    else:
        stage["sources"] = [name for name in stage["sources"] if name in sources]
    _filter(stage, "augmentation", sources)
    return bool(stage["sources"]) and stage.get("trains", "all") in ("all", *levels)


def _filter(values: Values, key: str, kept: Collection[str]) -> None:
    """Keep some keys of the mapping `values[key]`, if there is one."""
    if key in values:
        values[key] = {name: value for name, value in values[key].items() if name in kept}
