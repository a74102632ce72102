"""upernet evaluate RECIPE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upernet.recipe import Split


def evaluate(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or path of a .yaml file.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the sources' folders.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Weights: a file, a folder, hf://OWNER/NAME, or the name of a model.",
            show_default="the shipped or published ones",
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which photos.")] = "test",
    scales: Annotated[str, typer.Option(help="Factors of the test size, averaged: 0.5,0.75,1,1.25,1.5,1.75.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored photo.")] = False,
    window: Annotated[int | None, typer.Option(help="Go over the photo in windows of this many pixels.")] = None,
    stride: Annotated[int | None, typer.Option(help="From window to window; default: 2/3 of the window.")] = None,
    json: Annotated[Path | None, typer.Option(help="File to write all scores to.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: cuda if there is one.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that a CPU computes with.", show_default="all cores")
    ] = None,
) -> None:
    """Score a model, per level, on the data of a recipe; under torchrun, on several processes."""
    from contextlib import nullcontext
    from json import dumps

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from upernet.checkpoints import load_model
    from upernet.errors import UpernetError
    from upernet.evaluation import Passes
    from upernet.evaluation import evaluate as score
    from upernet.evaluation.report import tables
    from upernet.files import atomic_path
    from upernet.inference.parser import usable_device
    from upernet.recipe import load_recipe
    from upernet.training.distributed import join_world, leave_world

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = load_recipe(recipe)
    if device is not None:
        usable_device(device)
    if json is not None and json.is_dir():
        raise UpernetError(f"{json}: is a folder; give the name of a file for --json.")
    passes = Passes(_numbers(scales), flip, window, stride)
    model = load_model(recipe, checkpoint)
    world = join_world(device)
    # Opened first: a folder that cannot be written is better known before the photos are scored than after.
    with atomic_path(json) if json and world.is_main else nullcontext() as file:
        with Progress(console=Console(stderr=True), transient=True, disable=not world.is_main) as bar:
            tasks = {name: bar.add_task(name, total=None, visible=False) for name in chosen.sources}

            def show(source: str, done: int, total: int) -> None:
                bar.update(tasks[source], completed=done, total=total, visible=True)

            result = score(model, chosen, data, split, world.device, show, passes)
        if file is not None:
            file.write_text(dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    leave_world()
    if world.is_main:
        console = Console()
        for table in tables(result):
            console.print(table)
        if result["skipped"]:
            names = ", ".join(result["skipped"])
            console.print(f"Skipped, for there are no {split} photos of them below {data}: {names}.", markup=False)


def _numbers(text: str) -> tuple[float, ...]:
    """`0.5,1` -> (0.5, 1.0)."""
    from upernet.errors import UpernetError

    try:
        return tuple(float(number) for number in text.split(",")) if text.strip() else ()
    except ValueError:
        raise UpernetError(f"--scales {text}: give numbers with commas between, for example 0.5,1,1.5.") from None
