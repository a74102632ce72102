"""The command `upernet models`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upernet.cli.options import STDOUT, JsonOption, complete_model, write_json

if TYPE_CHECKING:
    from upernet.recipe import Recipe

RESEARCH_ONLY = "research and non-commercial use only"
NOT_STATED = "not stated"


def models(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            autocompletion=complete_model,
            help="Show all about one model: its name, a checkpoint of upernet, or the folder of a run.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """List the models with their scores, sizes, weights and terms of use.

    The columns are the levels, the published mIoU, the parameters, the multiply-adds, and where the weights are.
    """
    from upernet.checkpoints import list_zoo
    from upernet.models import list_models

    if model is not None:
        about = _details(model)
        if json is not None:
            write_json(about, json)
        if json != STDOUT:
            _show_details(about)
        return
    rows = [_row(name) for name in list_models()]
    if json is not None:
        write_json(rows, json)
    if json != STDOUT:
        zoo = list_zoo()
        _show(sorted(rows, key=lambda row: zoo.index(row["name"]) if row["name"] in zoo else -1))


def _row(name: str) -> dict[str, Any]:
    from upernet.checkpoints import is_downloaded, shipped_checkpoint, zoo_entry
    from upernet.checkpoints.header import card_in
    from upernet.checkpoints.sizes import model_size
    from upernet.recipe import load_recipe

    entry = zoo_entry(name)
    published = entry.published if entry else None
    size, recipe = model_size(name), load_recipe(name)
    shipped = shipped_checkpoint(name)
    if shipped is not None:
        weights = "shipped"
    elif entry:
        weights = "downloaded" if is_downloaded(entry) else "available"
    else:
        weights = "none"
    terms = card_in(shipped) if shipped is not None else entry
    return {
        "name": name,
        "levels": list(recipe.load_taxonomy().levels),
        "crop": list(published.crop) if published else None,
        "miou_single_scale": published.miou_single_scale if published else None,
        "miou_multi_scale": published.miou_multi_scale if published else None,
        "params": size.params,
        "macs": size.macs,
        "macs_at": list(size.macs_at),
        "shipped": shipped is not None,
        "weights": weights,
        "license": terms.license if terms else None,
        "research_only": terms.research_only if terms else None,
        "description": recipe.description,
    }


def _details(reference: str) -> dict[str, Any]:
    """Return what is known of a model by name, or what the card of a checkpoint says."""
    from upernet.checkpoints import find_checkpoint
    from upernet.checkpoints.header import card_in
    from upernet.errors import UpernetError
    from upernet.models import list_models
    from upernet.recipe import load_recipe

    if reference in list_models():
        recipe = load_recipe(reference)
        sources = {name: spec.terms.model_dump() for name, spec in recipe.training_data.items()}
        return _row(reference) | {"classes": _classes(recipe), "training_data": sources}
    path = find_checkpoint(reference)
    card = card_in(path)
    if card is None:
        raise UpernetError(f"{path}: has no card, which only files of upernet have; convert it with `upernet convert`.")
    terms = {"license": card.license or None, "research_only": card.research_only}
    return {"name": card.name or path.stem, "description": card.description, "file": str(path)} | terms


def _classes(recipe: Recipe) -> dict[str, list[str]]:
    return {
        name: list(level.names[1:] if level.background else level.names)
        for name, level in recipe.load_taxonomy().levels.items()
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold")
    for title in ("mIoU", "params", "MACs"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for row in rows:
        single, multi = row["miou_single_scale"], row["miou_multi_scale"]
        levels = ", ".join(row["levels"]) + (f", crop {row['crop'][0]}" if row["crop"] else "")
        height, width = row["macs_at"]
        terms = "research" if row["research_only"] else ""
        table.add_row(
            f"{row['name']}\n[dim]{levels}[/dim]",
            "-" if single is None else f"{single}\n[dim]{multi}[/dim]",
            _millions(row["params"]),
            f"{row['macs'] / 1e9:.0f} G\n[dim]{height}x{width}[/dim]",
            f"{row['weights']}\n[dim]{terms}[/dim]",
        )
    console = Console()
    console.print(table)
    console.print(
        "\nmIoU: published, in %, for one pass and, below, for several scales. MACs: multiply-adds for an image of the "
        "size below. Weights: shipped in this package; downloaded; available by `upernet download NAME`; "
        "none: train it. "
        f"Research: {RESEARCH_ONLY}; `upernet models NAME` shows the terms.",
        style="dim",
        highlight=False,
    )


def _show_details(about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from upernet.errors import printable

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, max_width=24, overflow="fold", style="bold")
    table.add_column(overflow="fold")
    for name, value in _detail_rows(about):
        table.add_row(Text(printable(name)), Text(printable(value)))
    Console().print(table)


def _detail_rows(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", about["name"]
    yield "description", about["description"] or NOT_STATED
    if "params" in about:
        height, width = about["macs_at"]
        yield "parameters", _millions(about["params"])
        yield "multiply-adds", f"{about['macs'] / 1e9:.0f} G for an image of {height}x{width}"
    yield "weights", about.get("file") or about["weights"]
    if about["research_only"] is not None:
        place = ", in the file LICENSE-WEIGHTS of the package" if about.get("shipped") else ""
        yield "license", f"{about['license'] or NOT_STATED}{place}"
        yield "use", RESEARCH_ONLY if about["research_only"] else "no restriction to research is recorded"
    for number, (name, terms) in enumerate(about.get("training_data", {}).items()):
        text = f"{name}: {terms['name'] or NOT_STATED}; terms: {terms['license'] or NOT_STATED}"
        yield "" if number else "training data", text
    for level, names in about.get("classes", {}).items():
        yield f"{level} ({len(names)})", ", ".join(names)


def _millions(count: int) -> str:
    return f"{count / 1e6:.{1 if count < 100e6 else 0}f} M"
