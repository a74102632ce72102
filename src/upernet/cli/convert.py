"""upernet convert IN OUT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Checkpoint of any format that upernet reads.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="OUT.safetensors and OUT.yaml are written; or a folder for them.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="What the model is: name of a shipped recipe, or path of a .yaml file.",
            show_default="told by the weights",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Turn a checkpoint of InternImage, mmsegmentation or transformers into a safetensors file and a recipe."""
    from upernet.checkpoints.convert import convert as run
    from upernet.recipe import load_recipe

    done = run(source, out, load_recipe(recipe) if recipe else None, force)
    print(f"{source}: {done.description}")
    for path in done.files:
        print(f"wrote {path}")
