"""The command `upernet parse`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from upernet.cli.options import STDOUT, DeviceOption, JsonOption, ThreadsOption, complete_model, write_json
from upernet.cli.termination import Terminated, terminable
from upernet.cli.video import EveryOption, LabelsOption, SecondsOption, SmoothOption, VideoOptions, parse_videos

if TYPE_CHECKING:
    from rich.progress import Progress

    from upernet.inference import Parse, Parser


def parse(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Photos, folders (including subfolders), patterns such as 'in/*.jpg', or http and https addresses; or "
            "videos: files, camera:NUMBER, and http, https, rtsp and rtmp addresses.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_model,
            help="Name of a model, or a checkpoint of upernet, InternImage, mmsegmentation, transformers or "
            "unifiedparsing: a file, a "
            "folder, or hf://OWNER/NAME.",
        ),
    ] = "everyday",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder in which each photo gets a folder with its results; with several photos, also summary.csv.",
            show_default="parses; nothing is saved with --json",
        ),
    ] = None,
    save: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What to save, separated by commas: sheet, overlay, labels, confidence, json, and coco (one coco.json "
            "for all photos); or none. The first five save parse.json in any case.",
        ),
    ] = "sheet,overlay,labels,confidence,json",
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            min=0,
            max=1,
            help="Save plain overlays in the photo's own size, without legend, with the colors' weight A from 0 to 1.",
            show_default="overlays with region names and a legend",
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="LEVELS",
            help="Levels separated by commas, such as object,part.",
            show_default="all levels of the model",
        ),
    ] = None,
    taxonomy: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="TAXONOMY",
            help="Show the results in the classes of another taxonomy, a name or a .yaml file, where the model's have "
            "a counterpart there (`upernet taxonomy map`); the rest is unsure.",
            show_default="the classes of the model",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --as: a table of counterparts (.csv or .yaml), as `upernet taxonomy map` writes."
        ),
    ] = None,
    device: DeviceOption = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            metavar="N",
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
    scales: Annotated[
        Literal["published"] | None,
        typer.Option(
            metavar="SCALES",
            help="published: parse each photo at several sizes and average the probabilities, as the published code of "
            "the model does; slower, and only for models with published sizes.",
            show_default="one scale",
        ),
    ] = None,
    every: EveryOption = None,
    smooth: SmoothOption = None,
    seconds: SecondsOption = None,
    labels: LabelsOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only: no progress, no descriptions.")] = False,
) -> None:
    """Parse photos or videos into scene, objects, parts, materials and textures.

    Prints a description of each photo, and saves a contact sheet, overlays, label maps, confidences and parse.json.
    Of a video, saves an overlay video and a lossless label video for each level, and a line of JSON for each frame.

    Exit status: 0 if all photos or videos were parsed, 1 if some failed, 2 if all failed, 130 or 143 if it was stopped.
    """
    import sys

    from upernet.devices import usable_device
    from upernet.errors import UpernetError, printable
    from upernet.inference import load
    from upernet.inference.inputs import name_of
    from upernet.inference.photos import check_what, find_photos, make_output_folder, parse_photos
    from upernet.ops import set_threads
    from upernet.taxonomy.tables import read_table

    parses: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    parsed = 0

    def report(path: str, error: UpernetError) -> None:
        failures.append({"path": path, "error": str(error)})
        print(f"upernet: {printable(error)}", file=sys.stderr)

    if table is not None and taxonomy is None:
        raise UpernetError("--table needs --as TAXONOMY; add it, or leave the table out.")

    def make_parser() -> tuple[Parser, list[str]]:
        set_threads(threads)
        reduce = "card" if short_side is None else short_side or None
        parser = load(model, usable_device(device), short_side=reduce, precision=precision, scales=scales)
        if taxonomy is not None:
            parser.show_as(taxonomy, None if table is None else read_table(table))
        return parser, parser.select_levels(None if levels is None else _split(levels))

    what = check_what(_split(save))
    videos = VideoOptions(every, smooth, seconds, labels)
    if videos.are_for(paths):
        raise typer.Exit(parse_videos(paths, make_parser, videos, out, what, alpha, json, quiet))
    found = find_photos(paths)
    for path, problem in found.problems:
        report(path, problem)
    left_out = None if quiet else found.left_out()
    signal = None
    if found.photos:
        parser, wanted = make_parser()
        folder = None if not what or (json and out is None) else out or Path("parses")
        if folder is not None:
            make_output_folder(folder)
        if left_out:
            print(f"upernet: {left_out}", file=sys.stderr)
        outcomes = parse_photos(parser, found.photos, wanted, folder, what, alpha)
        try:
            with terminable(), closing(outcomes), _progress(quiet) as bar:
                for outcome in bar.track(outcomes, total=len(found.photos), description="parsing"):
                    if isinstance(outcome.result, UpernetError):
                        report(name_of(outcome.photo), outcome.result)
                        continue
                    parsed += 1
                    if json is not None:
                        saved = outcome.result.folder
                        parses.append(outcome.result.to_dict() | {"folder": None if saved is None else str(saved)})
                    if json != STDOUT and not quiet:
                        _print_description(name_of(outcome.photo), outcome.result)
        except KeyboardInterrupt as interrupt:
            signal = SIGTERM if isinstance(interrupt, Terminated) else SIGINT
            where = "" if folder is None else f"; their results are in {printable(folder)}"
            print(f"upernet: stopped after {parsed} of {len(found.photos)} photos{where}.", file=sys.stderr)
    elif left_out:
        print(f"upernet: {left_out}", file=sys.stderr)
    if json is not None:
        write_json({"parses": parses, "failures": failures}, json)
    if signal:
        raise typer.Exit(128 + signal)
    if failures:
        raise typer.Exit(1 if parsed else 2)


def _split(names: str) -> list[str]:
    return [name for part in names.split(",") if (name := part.strip())]


def _progress(quiet: bool) -> Progress:
    """Return a progress bar on stderr, which shows nothing where that is no terminal."""
    import sys

    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise, rich would send piped output to stderr
        disable=quiet or not console.is_terminal,
    )


def _print_description(name: str, parse: Parse) -> None:
    """Print where the results of a photo are, and its description, in lines that fit the terminal."""
    import shutil

    from upernet.errors import printable
    from upernet.inference.wording import wrapped

    place = "" if parse.folder is None else f" -> {printable(parse.folder)}"
    width = shutil.get_terminal_size().columns
    print(f"{name}{place}", wrapped(parse.describe(), width, "  "), sep="\n", end="\n\n", flush=True)
