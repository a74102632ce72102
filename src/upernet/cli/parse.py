"""upernet parse PATH..."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def parse(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH", help="Photos, folders (with all folders below them), patterns such as 'in/*.jpg'."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Name of a model, or a checkpoint of upernet, InternImage, mmsegmentation or transformers: a file, a "
            "folder, or hf://OWNER/NAME."
        ),
    ] = "everyday",
    out: Annotated[
        Path | None,
        typer.Option(help="Where each photo gets a folder.", show_default="parses; with --json nothing is saved"),
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="Levels, separated by commas: object,part.", show_default="all of the model")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = "cpu",
    short_side: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Pixels that the short side of a larger photo is reduced to for the network; 0: no photo is reduced, "
            "large ones go through in tiles.",
            show_default="the model's own",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="bf16 multiplies in bfloat16: faster on CPUs that can, a little less exact."),
    ] = "fp32",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that a CPU computes with.", show_default="all cores")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all parses as one JSON object.")] = False,
) -> None:
    """Parse photos into scene, objects, parts, materials and textures.

    Each photo gets a folder with a contact sheet, overlays, label maps, confidences and parse.json, and is described.

    Exit status: 0 if all photos were parsed, 1 if some were not, 2 if none was.
    """
    import sys
    from json import dumps

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from upernet.errors import UpernetError
    from upernet.inference import load
    from upernet.inference.photos import find_photos

    parses: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []

    def report(path: str, error: UpernetError) -> None:
        failures.append({"path": path, "error": str(error)})
        print(f"upernet: {error}", file=sys.stderr)

    photos, problems = find_photos(paths)
    for path, problem in problems:
        report(path, problem)
    if not photos:
        if json:
            print(dumps({"parses": [], "failures": failures}, indent=2))
        raise typer.Exit(2)
    if threads is not None:
        torch.set_num_threads(threads)
    reduce = "card" if short_side is None else short_side or None
    parser = load(model, device, short_side=reduce, precision=precision)
    wanted = parser.select_levels(None if levels is None else filter(str.strip, levels.split(",")))
    folder = None if json and out is None else out or Path("parses")
    if folder is not None:
        _make_folder(folder)

    console = Console(stderr=True)
    progress = Progress(
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else rich would send what belongs into a pipe to stderr
        disable=not console.is_terminal,
    )
    with progress as bar:
        for photo in bar.track(photos, description="parsing"):
            try:
                result = parser(photo, wanted)
                saved = result.save(folder) if folder is not None else None
            except UpernetError as error:
                report(str(photo), error)
                continue
            content: dict[str, Any] = result.to_dict() | {"folder": None if saved is None else str(saved)}
            parses.append(content)
            if not json:
                print(f"{photo} -> {saved}", *content["description"].splitlines(), sep="\n  ", end="\n\n", flush=True)
    if json:
        print(dumps({"parses": parses, "failures": failures}, indent=2))
    if failures:
        raise typer.Exit(1 if parses else 2)


def _make_folder(folder: Path) -> None:
    """Make the output folder and write into it once: better refused now than after the first photo was parsed."""
    from tempfile import TemporaryFile

    from upernet.errors import UpernetError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UpernetError(
            f"{folder}: cannot be written ({error.strerror}); choose a folder you may write to with --out."
        ) from None
