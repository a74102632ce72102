"""The command `upernet train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a bundled recipe, or path of a .yaml file.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the data sets of the recipe.", show_default="the recipe's `data`"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; an unfinished run in it is resumed.", show_default="runs/RECIPE"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device: cpu, cuda, cuda:1, ...", show_default="cuda if available")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: a file, a folder, hf://OWNER/NAME, or the name of a model or backbone. Heads "
            "with other classes are newly initialized."
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store the final model's matrices as float16, in half the space.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress bar.")] = False,
) -> None:
    """Train the model of a recipe, or resume its training.

    Under torchrun, several processes share each batch.
    """
    from upernet.recipe import data_folder, load_recipe
    from upernet.training import train as run

    chosen = load_recipe(recipe)
    folder = out or Path("runs", chosen.name)
    run(
        chosen,
        data_folder(chosen, data),
        folder,
        device=device,
        initialize_from=init,
        half=half,
        quiet=quiet,
        log=typer.echo,
    )
