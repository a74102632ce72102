"""The command `upernet export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from upernet.cli.options import STDOUT, ForceOption, JsonOption, complete_model, write_json

if TYPE_CHECKING:
    from upernet.exporting import Export


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Name of a model, a checkpoint file or folder, or hf://OWNER/NAME.",
        ),
    ],
    to: Annotated[
        Literal["onnx", "openvino", "torch"] | None,
        typer.Option(metavar="FORMAT", help="onnx, openvino or torch.", show_default="by the suffix of --out, or onnx"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write, which ends with .onnx, .xml (openvino) or .pt2 (torch).",
            show_default="the model's name",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(
            metavar="PRECISION", help="fp32, fp16 or int8, of the weights and the maps; int8 needs --calibration."
        ),
    ] = "fp32",
    output: Annotated[
        Literal["logits", "labels"],
        typer.Option(help="logits at a quarter of the image's size, or label maps at its size with confidences."),
    ] = "logits",
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="Version of ONNX's standard operators.", show_default="20")
    ] = None,
    dcnv3: Annotated[
        Literal["gridsample", "deformconv"],
        typer.Option(help="Operator for DCNv3 of InternImage; deformconv for ONNX alone."),
    ] = "gridsample",
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with photos like those that will be parsed.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the data sets of the model's recipe, to score the model before and after.",
            show_default="nothing is scored",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Recipe of --data, a name or a .yaml file.", show_default="MODEL's"),
    ] = None,
    photos: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Photos per source to score.", show_default="all")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the file with the model at two sizes.")
    ] = True,
    force: ForceOption = False,
    json: JsonOption = None,
) -> None:
    """Export a model for ONNX Runtime, OpenVINO or torch.

    The file takes uint8 images of any number and size, and `upernet parse --model FILE` parses with it.
    """
    from upernet.checkpoints import EXPORTED
    from upernet.exporting import export as run
    from upernet.recipe import load_recipe

    if out is None:
        out = Path(_name(model) + EXPORTED[to or "onnx"])
    done = run(
        model,
        out,
        to=to,
        precision=precision,
        output=output,
        opset=opset,
        dcnv3=dcnv3,
        calibration=calibration,
        data=data,
        recipe=load_recipe(recipe) if recipe else None,
        photos=photos,
        verify=verify,
        force=force,
    )
    if json is not None:
        write_json(done.to_dict(), json)
    if json != STDOUT:
        _print(done)


def _name(model: str) -> str:
    """Return the name of a file for `model`: that of the recipe, file, folder or repository."""
    path = Path(model)
    if path.is_file():
        return path.stem
    return (path.resolve() if path.is_dir() else path).name.partition("@")[0] or "model"


def _print(done: Export) -> None:
    from upernet.errors import printable

    print(f"wrote {', '.join(map(printable, done.files))}")
    print(f"outputs: {', '.join(done.outputs)}")
    for name, error in done.errors.items():
        print(f"{name}: differs from the model by {error:.1e} at most")
    for level, share in done.agreement.items():
        print(f"{level}: the class agrees on {100 * share:.2f} %")
    for level, score in done.scores.items():
        print(f"{level}: {score['before']:.4f} before, {score['after']:.4f} after")
