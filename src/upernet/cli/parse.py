"""The command `upernet parse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from upernet.cli.options import ThreadsOption


def parse(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Photos, folders (including subfolders), or patterns such as 'in/*.jpg'."),
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
        typer.Option(
            help="Folder in which each photo gets a folder with its results.",
            show_default="parses; nothing is saved with --json",
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(help="Levels separated by commas, such as object,part.", show_default="all levels of the model"),
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1, mps, ...")] = "cpu",
    short_side: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Short side in pixels to which larger photos are reduced for the network. 0: photos keep their size, "
            "and large ones are parsed in tiles.",
            show_default="the model's setting",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="Numeric precision; bf16 is faster on CPUs that support bfloat16, and slightly less exact."),
    ] = "fp32",
    threads: ThreadsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print all results as one JSON object.")] = False,
) -> None:
    """Parse photos into scene, objects, parts, materials and textures.

    Prints a description of each photo, and saves a contact sheet, overlays, label maps, confidences and parse.json.

    Exit status: 0 if all photos were parsed, 1 if some failed, 2 if all failed.
    """
    import sys
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    from upernet.errors import UpernetError
    from upernet.inference import load
    from upernet.inference.photos import find_photos, make_output_folder, parse_photos
    from upernet.ops import set_threads

    parses: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []

    def report(path: str, error: UpernetError) -> None:
        failures.append({"path": path, "error": str(error)})
        print(f"upernet: {error}", file=sys.stderr)

    photos, problems = find_photos(paths)
    for path, problem in problems:
        report(path, problem)
    if photos:
        set_threads(threads)
        reduce = "card" if short_side is None else short_side or None
        parser = load(model, device, short_side=reduce, precision=precision)
        wanted = parser.select_levels(None if levels is None else filter(str.strip, levels.split(",")))
        folder = None if json and out is None else out or Path("parses")
        if folder is not None:
            make_output_folder(folder)
        console = Console(stderr=True)
        progress = Progress(
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # otherwise, rich would send piped output to stderr
            disable=not console.is_terminal,
        )
        with progress as bar:
            parsed = parse_photos(parser, photos, wanted, folder)
            for photo in bar.track(parsed, total=len(photos), description="parsing"):
                if isinstance(photo.result, UpernetError):
                    report(str(photo.path), photo.result)
                    continue
                parses.append(photo.result)
                if not json:
                    _print_description(photo.path, photo.result)
    if json:
        print(dumps({"parses": parses, "failures": failures}, indent=2))
    if failures:
        raise typer.Exit(1 if parses else 2)


def _print_description(photo: Path, content: dict[str, Any]) -> None:
    """Print where the results of a photo are, and its description."""
    lines = content["description"].splitlines()
    print(f"{photo} -> {content['folder']}", *lines, sep="\n  ", end="\n\n", flush=True)
