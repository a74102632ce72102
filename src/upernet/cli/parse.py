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
    from upernet.inference import Parser
    from upernet.inference.photos import Outcome

FEW = 20
"""Up to so many photos, everything is saved and each photo is described; the results of more are for programs."""
EVERYTHING, FOR_PROGRAMS = "sheet,overlay,labels,confidence,json", "labels,json"
MOST_FAILURES = 20
"""Failures of many photos that are printed."""


def parse(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Photos, folders (including subfolders), patterns such as 'in/*.jpg', lists (.txt, one photo per "
            "line), WebDataset shards (.tar), and addresses of all of these: http, https, s3, gs, az, hf, ...; or "
            "videos: files, camera:NUMBER, and http, https, rtsp and rtmp addresses.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_model,
            help="Name of a model, or a checkpoint of upernet, InternImage, mmsegmentation, transformers or "
            "unifiedparsing: a file, a folder, or hf://OWNER/NAME; or a file of `upernet export`.",
        ),
    ] = "everyday",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder in which each photo gets a folder with its results; with several photos, also summary.csv and "
            "manifest.jsonl, by which the same command goes on after an interruption.",
            show_default="parses; nothing is saved with --json",
        ),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What to save, separated by commas: sheet, overlay, labels, confidence, json, and coco (one coco.json "
            "for all photos); or none. The first five save parse.json in any case.",
            show_default=f"{EVERYTHING}; for more than {FEW} photos, lists and shards: {FOR_PROGRAMS}",
        ),
    ] = None,
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
        Literal["fp32", "bf16", "int8"],
        typer.Option(
            metavar="PRECISION",
            help="fp32; bf16: faster on CPUs that support bfloat16, and slightly less exact; or int8: faster again on "
            "x86 CPUs, less exact again, and with --calibration.",
        ),
    ] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --precision int8: folder with a few photos like those to be parsed."),
    ] = None,
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
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="Largest number of photos of like size that go through the network together.",
            show_default="1 on a CPU, 8 on other devices",
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where photos are parsed: in this process, or on a Ray cluster, with an actor per device."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="With --engine ray: the address of the cluster, such as auto or HOST:6379.",
            show_default="RAY_ADDRESS if set, else a cluster of this machine alone",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Parse photos again that are done already.")] = False,
    json: JsonOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only: no progress, no descriptions.")] = False,
) -> None:
    """Parse photos or videos into scene, objects, parts, materials and textures.

    Prints a description of each photo, and saves a contact sheet, overlays, label maps, confidences and parse.json.
    Of a video, saves an overlay video and a lossless label video for each level, and a line of JSON for each frame.
    With several photos, those whose results are there are left out if neither photo, model nor options have changed.

    Exit status: 0 if all photos or videos were parsed, 1 if some failed, 2 if all failed, 130 or 143 if it was stopped.
    """
    import sys
    from collections import Counter

    from upernet.devices import usable_device
    from upernet.errors import UpernetError, printable
    from upernet.inference.cluster import ModelChoice, RayEngine
    from upernet.inference.photos import check_what, make_output_folder, parse_photos
    from upernet.inference.progress import RunProgress
    from upernet.inference.sources import find_photos, is_list, left_out
    from upernet.ops import set_threads
    from upernet.ops.runtime.compiling import compile_ahead
    from upernet.taxonomy.tables import read_table

    parses: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    in_shards: Counter[str] = Counter()
    parsed = earlier = 0

    def report(path: str, error: UpernetError) -> None:
        failures.append({"path": path, "error": str(error)})
        if not many or quiet:
            print(f"upernet: {printable(error)}", file=sys.stderr)

    def print_unless_quiet(sentence: str | None) -> None:
        if sentence and not quiet:
            print(f"upernet: {sentence}", file=sys.stderr)

    if table is not None and taxonomy is None:
        raise UpernetError("--table needs --as TAXONOMY; add it, or leave the table out.")
    if ray_address is not None and engine != "ray":
        raise UpernetError("--ray-address needs --engine ray; add it, or leave the address out.")
    reduce = "card" if short_side is None else short_side or None
    counterparts = None if table is None else read_table(table)
    calibrated_on = None if calibration is None else str(calibration)
    choice = ModelChoice(model, reduce, precision, calibrated_on, scales, taxonomy, counterparts)

    def make_parser() -> tuple[Parser, list[str]]:
        set_threads(threads)
        if engine == "local" and usable_device(device).type == "cpu":
            compile_ahead()
        parser = choice.load(device if engine == "local" else "cpu")
        return parser, parser.select_levels(None if levels is None else _split(levels))

    what = None if save is None else check_what(_split(save))
    videos = VideoOptions(every, smooth, seconds, labels)
    if videos.are_for(paths):
        if engine != "local":
            raise UpernetError("--engine ray is for photos; leave it out to parse videos.")
        kinds = check_what(_split(EVERYTHING)) if what is None else what
        raise typer.Exit(parse_videos(paths, make_parser, videos, out, kinds, alpha, json, quiet))
    found = find_photos(paths)
    many = len(found.photos) > FEW or bool(found.shards) or any(map(is_list, paths)) or engine == "ray"
    if what is None:
        what = check_what(_split(FOR_PROGRAMS if many else EVERYTHING))
    for path, problem in found.problems:
        report(path, problem)
    signal = None
    if found.photos:
        parser, wanted = make_parser()
        folder = None if not what or (json and out is None) else out or Path("parses")
        if folder is not None:
            make_output_folder(folder)
        print_unless_quiet(left_out(found.unread))
        outcomes = parse_photos(
            parser,
            found.photos,
            wanted,
            folder,
            what,
            alpha,
            several=found.several,
            again=force,
            batch=batch,
            left_out=in_shards,
            engine=RayEngine(choice, device, threads, ray_address) if engine == "ray" else None,
        )
        progress = RunProgress(None if quiet else found.count(), quiet=quiet, lines=many)
        try:
            with terminable(), closing(outcomes), progress:
                for outcome in outcomes:
                    if isinstance(outcome.result, UpernetError):
                        report(outcome.name, outcome.result)
                        progress.advance(parsed=False)
                        continue
                    parsed += 1
                    earlier += outcome.result.earlier
                    progress.advance(parsed=not outcome.result.earlier)
                    if json is not None:
                        parses.append(outcome.to_dict())
                    if json != STDOUT and not quiet and not many:
                        _print_description(outcome)
        except KeyboardInterrupt as interrupt:
            signal = SIGTERM if isinstance(interrupt, Terminated) else SIGINT
            where = "" if folder is None else f"; their results are in {printable(folder)}"
            total = found.count()
            of = "" if total is None else f" of {total}"
            print(f"upernet: stopped after {parsed}{of} photos{where}.", file=sys.stderr)
        if many and not quiet:
            _print_end(parsed, earlier, failures, folder, progress.rate, json)
    else:
        print_unless_quiet(left_out(found.unread))
    print_unless_quiet(left_out(in_shards))
    if json is not None:
        write_json({"parses": parses, "failures": failures}, json)
    if signal:
        raise typer.Exit(128 + signal)
    if failures:
        raise typer.Exit(1 if parsed else 2)


def _split(names: str) -> list[str]:
    return [name for part in names.split(",") if (name := part.strip())]


def _print_description(outcome: Outcome) -> None:
    """Print where the results of a photo are, and its description, in lines that fit the terminal."""
    import shutil

    from upernet.errors import UpernetError, printable
    from upernet.inference.wording import wrapped

    assert not isinstance(outcome.result, UpernetError)
    folder, parse = outcome.result.folder, outcome.result.parse
    place = "" if folder is None else f" -> {printable(folder)}"
    if parse is None:
        print(f"{printable(outcome.name)}{place} (done already)", flush=True)
        return
    width = shutil.get_terminal_size().columns
    print(f"{printable(outcome.name)}{place}", wrapped(parse.describe(), width, "  "), sep="\n", end="\n\n", flush=True)


def _print_end(
    parsed: int, earlier: int, failures: list[dict[str, str]], folder: Path | None, rate: float, json: Path | None
) -> None:
    """Print the failures of a run over many photos, and what it did."""
    import sys

    from upernet.errors import printable

    for failure in failures[:MOST_FAILURES]:
        print(f"upernet: {printable(failure['error'])}", file=sys.stderr)
    if len(failures) > MOST_FAILURES:
        where = "summary.csv" if json is None else "the JSON"
        print(f"upernet: {len(failures) - MOST_FAILURES} more photos failed; {where} says why.", file=sys.stderr)
    counts = [f"{parsed - earlier} parsed ({rate:.1f} photos/s)"]
    counts += [f"{earlier} done already"] if earlier else []
    counts += [f"{len(failures)} failed"] if failures else []
    place = "" if folder is None else f" -> {printable(folder)}"
    if json != STDOUT:
        print(f"{', '.join(counts)}{place}", flush=True)
