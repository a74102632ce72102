"""The command `upernet evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upernet.cli.options import ThreadsOption
from upernet.recipe import Split


def evaluate(
    recipe: Annotated[str, typer.Argument(help="Name of a bundled recipe, or path of a .yaml file.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the data sets of the recipe.", show_default="the recipe's `data`"),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Weights: a file, a folder, hf://OWNER/NAME, or the name of a model.",
            show_default="the bundled or published ones",
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Split to score.")] = "test",
    scales: Annotated[
        str,
        typer.Option(
            help="Test-time augmentation: factors of the test size to average over, such as 0.5,0.75,1,1.25,1.5,1.75."
        ),
    ] = "1",
    flip: Annotated[
        bool, typer.Option("--flip", help="Test-time augmentation: average with the mirrored photo.")
    ] = False,
    window: Annotated[
        int | None, typer.Option(help="Side of sliding windows in pixels.", show_default="whole photo")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Distance between windows in pixels.", show_default="2/3 of the window")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File to write all scores to, as JSON.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device: cpu, cuda, cuda:1, ...", show_default="cuda if available")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Score a model per level on the data of a recipe.

    Under torchrun, several processes divide the photos among them.
    """
    from contextlib import nullcontext
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    from upernet.checkpoints import load_model
    from upernet.devices import usable_device
    from upernet.distributed import join_world, leave_world
    from upernet.errors import UpernetError
    from upernet.evaluation import TestTimeAugmentation
    from upernet.evaluation import evaluate as score
    from upernet.evaluation.report import tables
    from upernet.files import atomic_path
    from upernet.ops import set_threads
    from upernet.recipe import data_folder, load_recipe

    set_threads(threads)
    chosen = load_recipe(recipe)
    folder = data_folder(chosen, data)
    if device is not None:
        usable_device(device)
    if json is not None and json.is_dir():
        raise UpernetError(f"{json}: is a folder; give a file name for --json.")
    tta = TestTimeAugmentation(_numbers(scales), flip, window, stride)
    model = load_model(recipe, checkpoint)
    world = join_world(device)
    # Opened before the photos are scored, so that a folder that cannot be written is reported at once.
    with atomic_path(json) if json and world.is_main else nullcontext() as file:
        with Progress(console=Console(stderr=True), transient=True, disable=not world.is_main) as bar:
            tasks = {name: bar.add_task(name, total=None, visible=False) for name in chosen.sources}

            def show(source: str, done: int, total: int) -> None:
                bar.update(tasks[source], completed=done, total=total, visible=True)

            result = score(model, chosen, folder, split, world.device, show, tta)
        if file is not None:
            file.write_text(dumps(result.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    leave_world()
    if world.is_main:
        console = Console()
        for table in tables(result):
            console.print(table)
        if result.skipped:
            names = ", ".join(result.skipped)
            console.print(f"Skipped sources without {split} photos in {folder}: {names}.", markup=False)


def _numbers(text: str) -> tuple[float, ...]:
    """Parse numbers separated by commas: `0.5,1` -> (0.5, 1.0)."""
    from upernet.errors import UpernetError

    try:
        return tuple(float(number) for number in text.split(",")) if text.strip() else ()
    except ValueError:
        raise UpernetError(f"--scales {text}: give numbers separated by commas, such as 0.5,1,1.5.") from None
