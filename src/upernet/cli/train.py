"""upernet train RECIPE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or path of a .yaml file.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the sources' folders.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished run in it goes on.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: cuda if there is one.")] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from; heads that do not fit start anew.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the model's matrices as float16: half the size.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train the model of a recipe; under torchrun, on several processes."""
    from upernet.recipe import load_recipe
    from upernet.training import train as run

    chosen = load_recipe(recipe)
    run(chosen, data, out, device=device, initialize_from=init, half=half, quiet=quiet, say=typer.echo)
