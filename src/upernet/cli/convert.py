"""The command `upernet convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from upernet.cli.options import ForceOption


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="Checkpoint of any format: a file, a folder, hf://OWNER/NAME, or the name of a model."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Write OUT.safetensors and OUT.yaml; or a folder to write them to. --to transformers: the folder.",
        ),
    ],
    to: Annotated[
        Literal["upernet", "transformers"],
        typer.Option(metavar="FORMAT", help="upernet, or transformers: its UperNet, with a Swin or ConvNeXt backbone."),
    ] = "upernet",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="Recipe of the model: name of a bundled recipe, or path of a .yaml file.",
            show_default="inferred from the weights",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Convert a checkpoint to a safetensors file and a recipe, or to a folder of transformers.

    Reads checkpoints of InternImage, mmsegmentation, transformers and unifiedparsing.
    """
    from upernet.checkpoints import convert as conversions
    from upernet.recipe import load_recipe

    run = conversions.convert_to_transformers if to == "transformers" else conversions.convert
    done = run(source, out, load_recipe(recipe) if recipe else None, force)
    print(f"{source}: {done.summary}")
    for path in done.files:
        print(f"wrote {path}")
