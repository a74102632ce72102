"""The command `upernet train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upernet.cli.options import DataOption, DeviceOption, QuietOption, RecipeArgument, SettingsOption, ThreadsOption


def train(
    recipe: RecipeArgument,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the run; an existing run is resumed.", show_default="runs/RECIPE"),
    ] = None,
    settings: SettingsOption = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Total iterations of all stages; the remaining stages are scaled, and a finished run is extended.",
            show_default="as in the recipe",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Test the whole run in about a minute, in runs/RECIPE-quick.")
    ] = False,
    find_learning_rate: Annotated[
        bool,
        typer.Option(
            "--find-learning-rate", help="Run a learning rate range test instead, and write its curve to lr.png."
        ),
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Weights to start from: a file, a folder, hf://OWNER/NAME, or the name of a model or backbone. Heads "
            "with other classes keep the weights of classes of the same name.",
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store the final model's matrices as float16, in half the space.")
    ] = False,
    logger: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also send the progress to tensorboard, wandb, mlflow or trackio. Repeatable.",
            show_default="tensorboard, if installed",
        ),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train the model of a recipe, or resume its training.

    Ctrl-C saves the state; the same command resumes. Under torchrun, several processes share each batch.
    """
    from upernet.errors import printable
    from upernet.ops import set_threads
    from upernet.overrides import override
    from upernet.recipe import data_folder, load_recipe

    set_threads(threads)
    chosen = override(load_recipe(recipe), settings or [])
    folder = data_folder(chosen, data)
    place = out or Path("runs", f"{chosen.name}-quick" if quick else chosen.name)

    def say(line: str) -> None:
        typer.echo(printable(line))

    if find_learning_rate:
        from upernet.training.finder import find_learning_rate as find

        find(chosen, folder, place, device=device, initialize_from=init, quiet=quiet, log=say)
        return
    from upernet.training import train as run
    from upernet.training.quick import quick_recipe

    run(
        quick_recipe(chosen) if quick else chosen,
        folder,
        place,
        device=device,
        initialize_from=init,
        iterations=iterations,
        half=half,
        loggers=logger,
        start_over=quick,
        quiet=quiet,
        log=say,
    )
    if quick:
        say("Everything works; these scores mean nothing, because the model has hardly been trained.")
