"""Conversion of a checkpoint of any format: to the native one, with a recipe, or to a folder of transformers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from upernet.checkpoints.card import ModelCard
from upernet.checkpoints.finding import find_checkpoint, recipe_of
from upernet.checkpoints.formats.halves import other_half
from upernet.checkpoints.identify import matching_recipe
from upernet.checkpoints.loading import load_checkpoint
from upernet.checkpoints.native import save_checkpoint
from upernet.checkpoints.to_transformers import FILES, write_transformers
from upernet.errors import UpernetError
from upernet.files import atomic_path
from upernet.models import UPerNet
from upernet.recipe import Recipe
from upernet.taxonomy import Taxonomy, list_taxonomies, load_taxonomy


@dataclass(frozen=True)
class Conversion:
    """The result of `convert`."""

    summary: str
    """The model in words."""
    files: tuple[Path, ...]
    """Weights, recipe, and the taxonomy if it is not a shipped one."""


def convert(source: str | Path, out: Path, recipe: Recipe | None = None, force: bool = False) -> Conversion:
    """Write a checkpoint as `OUT.safetensors`, its auxiliary head included, and `OUT.yaml`, its recipe.

    The recipe is `recipe`, or the shipped one of this architecture and taxonomy, with its data sources, or else one
    that says what the model is and no more. A taxonomy that is not shipped is written beside it, as
    `OUT_taxonomy.yaml`.

    Args:
        source: the checkpoint, as `find_checkpoint` takes it.
        out: without suffix, or the .safetensors file; or a folder, for files named after `source`.
        recipe: what the model is; default: the recipe of a model by name, else inferred from the weights.
        force: overwrite existing files.

    Raises:
        UpernetError: `source` cannot be found or loaded (see `load_checkpoint`), or a file exists already or cannot be
            written; no file is changed then.
    """
    path = find_checkpoint(source)
    base = out / _stem(path) if out.is_dir() else out.with_name(out.name.removesuffix(".safetensors"))
    weights, recipe_file, taxonomy_file = (
        base.with_name(base.name + end) for end in (".safetensors", ".yaml", "_taxonomy.yaml")
    )
    _refuse_overwriting([weights, recipe_file], force)
    recipe = recipe or recipe_of(source)
    model, card = load_checkpoint(path, recipe)
    recipe = recipe or matching_recipe(model.spec, model.taxonomy)
    shipped = _shipped_name(model.taxonomy, recipe)
    if shipped is None:
        _refuse_overwriting([taxonomy_file], force)

    files = (weights, recipe_file) if shipped else (weights, recipe_file, taxonomy_file)
    with ExitStack() as stack:  # no file appears before all are written
        temporary = {path: stack.enter_context(atomic_path(path)) for path in files[1:]}
        content = _recipe_content(recipe, model, card) | {"taxonomy": shipped or taxonomy_file.name}
        _write_yaml(temporary[recipe_file], content)
        if not shipped:
            _write_yaml(temporary[taxonomy_file], model.taxonomy.to_dict())
        save_checkpoint(weights, model, card, auxiliary=True)
    return Conversion(_summarize(model, card), files)


def convert_to_transformers(
    source: str | Path, out: Path, recipe: Recipe | None = None, force: bool = False
) -> Conversion:
    """Write a checkpoint as a folder of Hugging Face transformers, its auxiliary head included.

    Args:
        source: the checkpoint, as `find_checkpoint` takes it.
        out: the folder; it is created if it does not exist.
        recipe: what the model is; default: the recipe of a model by name, else inferred from the weights.
        force: overwrite existing files.

    Raises:
        UpernetError: `source` cannot be found or loaded, transformers has no such network (see `write_transformers`),
            or a file exists already or cannot be written; no file is changed then.
    """
    path = find_checkpoint(source)
    if out.exists() and not out.is_dir():
        raise UpernetError(f"{out}: is a file; give a folder.")
    _refuse_overwriting([out / name for name in FILES], force)
    model, card = load_checkpoint(path, recipe or recipe_of(source))
    return Conversion(_summarize(model, card), write_transformers(out, model, card))


def _recipe_content(recipe: Recipe | None, model: UPerNet, card: ModelCard) -> dict[str, object]:
    if recipe is not None:
        return recipe.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    return {
        "description": card.description or f"UPerNet with {model.spec.backbone}",
        "model": model.spec.model_dump(mode="json", exclude_defaults=True),
    }


def _stem(path: Path) -> str:
    """Return the name of a file without its suffix, or that of the folder of a model in two files."""
    return path.stem if other_half(path) is None else path.resolve().parent.name


def _shipped_name(taxonomy: Taxonomy, recipe: Recipe | None) -> str | None:
    """Return the name of the shipped taxonomy that, with the levels of `recipe`, equals `taxonomy`, or None."""
    if recipe is not None and recipe.taxonomy in list_taxonomies() and recipe.load_taxonomy() == taxonomy:
        return recipe.taxonomy
    return next((name for name in list_taxonomies() if load_taxonomy(name) == taxonomy), None)


def _summarize(model: UPerNet, card: ModelCard) -> str:
    levels = ", ".join(f"{level.num_classes} classes of {level.name}" for level in model.taxonomy.levels.values())
    head = "with" if model.auxiliary is not None else "without"
    return (
        f"UPerNet with {model.spec.backbone} (file of {card.origin or 'upernet'}), {levels} "
        f"(taxonomy {model.taxonomy.name}), {head} auxiliary head"
    )


def _refuse_overwriting(files: list[Path], force: bool) -> None:
    for path in files:
        if path.exists() and not force:
            raise UpernetError(f"{path}: already exists; give another OUT, or --force to overwrite it.")


def _write_yaml(path: Path, content: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
