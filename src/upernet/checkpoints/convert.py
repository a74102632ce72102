"""From a checkpoint of any format to the own one, with a recipe that says what the model is."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from upernet.checkpoints.loading import load_checkpoint, save_checkpoint, shipped_recipe
from upernet.errors import UpernetError
from upernet.files import atomic_path
from upernet.models import UPerNet
from upernet.recipe import Recipe
from upernet.taxonomy import Taxonomy, list_taxonomies, load_taxonomy


@dataclass(frozen=True)
class Converted:
    """What became of a file."""

    description: str
    """What the file was taken for."""
    files: tuple[Path, ...]
    """Weights, recipe, and the taxonomy if it is no shipped one."""


def convert(source: Path, out: Path, recipe: Recipe | None = None, force: bool = False) -> Converted:
    """Write the checkpoint `source` as `OUT.safetensors`, its auxiliary head included, and `OUT.yaml`, its recipe.

    The recipe is `recipe`, or the shipped one of this architecture and taxonomy, with its data sources, or else says
    what the model is and no more. A taxonomy that is not shipped is written beside it, as `OUT_taxonomy.yaml`.

    Args:
        out: without suffix, or the .safetensors file; or a folder, for files named as `source`.
        force: overwrite files that are there.

    Raises:
        UpernetError: `source` cannot be loaded (see `load_checkpoint`), or a file is there already or cannot be
            written; no file is then changed.
    """
    base = out / source.stem if out.is_dir() else out.with_name(out.name.removesuffix(".safetensors"))
    weights, recipe_file, taxonomy_file = (
        base.with_name(base.name + end) for end in (".safetensors", ".yaml", "_taxonomy.yaml")
    )
    _refuse_overwriting([weights, recipe_file], force)
    model, card = load_checkpoint(source, recipe)
    recipe = recipe or shipped_recipe(model.spec, model.taxonomy)
    shipped = _shipped_taxonomy(model.taxonomy)
    if shipped is None:
        _refuse_overwriting([taxonomy_file], force)

    files = (weights, recipe_file) if shipped else (weights, recipe_file, taxonomy_file)
    with ExitStack() as stack:  # none takes its place before all are written
        temporary = {path: stack.enter_context(atomic_path(path)) for path in files[1:]}
        content = _content(recipe, model, card) | {"taxonomy": shipped or taxonomy_file.name}
        _write_yaml(temporary[recipe_file], content)
        if not shipped:
            _write_yaml(temporary[taxonomy_file], model.taxonomy.to_dict())
        save_checkpoint(weights, model, card, auxiliary=True)
    return Converted(_words(model, card), files)


def _content(recipe: Recipe | None, model: UPerNet, card: dict[str, Any]) -> dict[str, Any]:
    if recipe is not None:
        return recipe.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    return {
        "description": str(card.get("description") or f"UPerNet with {model.spec.backbone}"),
        "model": model.spec.model_dump(mode="json", exclude_defaults=True),
    }


def _shipped_taxonomy(taxonomy: Taxonomy) -> str | None:
    return next((name for name in list_taxonomies() if load_taxonomy(name) == taxonomy), None)


def _words(model: UPerNet, card: dict[str, Any]) -> str:
    levels = ", ".join(f"{level.num_classes} classes of {level.name}" for level in model.taxonomy.levels.values())
    head = "with" if model.auxiliary is not None else "without"
    return (
        f"UPerNet with {model.spec.backbone} (file of {card.get('origin', 'upernet')}), {levels} "
        f"(taxonomy {model.taxonomy.name}), {head} auxiliary head"
    )


def _refuse_overwriting(files: list[Path], force: bool) -> None:
    for path in files:
        if path.exists() and not force:
            raise UpernetError(f"{path}: is there already; give another OUT, or --force to overwrite it.")


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
