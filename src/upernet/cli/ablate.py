"""The command `upernet ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upernet.cli.options import (
    STDOUT,
    DataOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SettingsOption,
    SplitOption,
    ThreadsOption,
    write_json,
)


def ablate(
    recipe: RecipeArgument,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for a run per subset, ablation.md and ablation.json.",
            show_default="runs/RECIPE-ablation",
        ),
    ] = None,
    settings: SettingsOption = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Iterations of each run, of all its stages.", show_default="as in the recipe"
        ),
    ] = None,
    split: SplitOption = None,
    json: JsonOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a model for each of the paper's subsets of the levels, and compare them.

    The subsets are objects (+O), and then in turn parts (+P), scenes (+S), materials (+M) and textures (+T). Levels
    that no photo is labeled at are left out. Ctrl-C saves the state; the same command goes on.
    """
    from upernet.distributed import join_world
    from upernet.errors import printable
    from upernet.ops import set_threads
    from upernet.overrides import override
    from upernet.recipe import data_folder, load_recipe
    from upernet.training.ablation import SCORES, TABLE
    from upernet.training.ablation import ablate as run

    set_threads(threads)
    chosen = override(load_recipe(recipe), settings or [])
    folder = data_folder(chosen, data)
    place = out or Path("runs", f"{chosen.name}-ablation")
    only_json = json == STDOUT

    def say(line: str) -> None:
        typer.echo(printable(line), err=only_json)

    world = join_world(device)
    found = run(
        chosen, folder, place, split=split, device=device, iterations=iterations, quiet=quiet or only_json, log=say
    )
    if not world.is_main:
        return
    if json is not None:
        write_json({"recipe": chosen.name, "rows": found.rows, "left_out": found.left_out}, json)
    if not only_json:
        typer.echo(f"\n{found.table}")
        say(f"Wrote {place / TABLE} and {SCORES}")
