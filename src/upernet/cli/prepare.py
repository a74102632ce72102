"""`upernet data prepare`: convert downloaded data sets to what recipes read."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.progress import Progress

from upernet.cli.options import JsonOption, QuietOption, write_json
from upernet.data.prepare import DATASETS
from upernet.errors import UpernetError, did_you_mean, printable

if TYPE_CHECKING:
    from upernet.data.prepare.broden import Estimate, Report
    from upernet.data.prepare.broden.sources import Flaw

app = typer.Typer(help="Convert a downloaded data set to what recipes read.", no_args_is_help=True)
SHOWN_FLAWS = 10


@app.callback()
def _prepare() -> None:
    """Convert a downloaded data set to what recipes read. Existing files are kept."""


def _command(dataset: str) -> Callable[..., None]:
    """Return the command that prepares a data set of `DATASETS`."""

    def command(
        data: Annotated[
            Path,
            typer.Argument(
                metavar="DIR", help="Folder in which its folder is created; pass it as --data to other commands."
            ),
        ],
        archives: Annotated[
            list[Path] | None,
            typer.Option(
                "--from", metavar="PATH", help="A downloaded zip, or the folder it was unpacked to; repeatable."
            ),
        ] = None,
    ) -> None:
        from upernet.data.prepare import prepare

        with _bar(f"preparing {dataset}") as progress:
            prepared = prepare(dataset, data, archives or [], progress)
        for split, photos in prepared.photos.items():
            print(f"{split}: {photos} photos, {prepared.written[split]} of them new")
        print(f"Wrote {prepared.folder}, from the {prepared.origin}; pass --data {data}")
        if prepared.note:
            print(prepared.note)

    return command


for _name, _archives in DATASETS.items():
    app.command(_name, help=f"Convert {_archives}")(_command(_name))


@app.command("broden")
def broden(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that is written.")],
    ade20k: Annotated[
        Path | None, typer.Option("--ade20k", metavar="DIR", help="ADE20K, release of 2016 or 2021.")
    ] = None,
    pascal_context: Annotated[
        Path | None, typer.Option("--pascal-context", metavar="DIR", help="Pascal-Context, 459 classes.")
    ] = None,
    pascal_part: Annotated[Path | None, typer.Option("--pascal-part", metavar="DIR", help="Pascal-Part.")] = None,
    voc2010: Annotated[
        Path | None,
        typer.Option(
            "--voc2010",
            metavar="DIR",
            help="Photos of the two Pascal sets (JPEGImages).",
            show_default="in or beside their folders",
        ),
    ] = None,
    opensurfaces: Annotated[
        Path | None,
        typer.Option("--opensurfaces", metavar="DIR", help="OpenSurfaces, after its own script has rendered it."),
    ] = None,
    dtd: Annotated[Path | None, typer.Option("--dtd", metavar="DIR", help="Describable Textures Dataset.")] = None,
    short_side: Annotated[
        int,
        typer.Option(
            "--short-side",
            metavar="N",
            min=0,
            max=16_384,
            help="Reduce larger photos of ADE20K and OpenSurfaces to this short side; 0: do not.",
        ),
    ] = 512,
    lists: Annotated[
        Path | None,
        typer.Option(
            "--lists",
            metavar="DIR",
            help="Split the photos by the released lists of records (meta_file).",
            show_default="ADE20K's own split; a tenth of the others to validate on",
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            metavar="SET",
            help="published; counted: the frequent raw labels, by the options below; or a file that assigns raw labels "
            "to classes of --taxonomy.",
        ),
    ] = "published",
    taxonomy: Annotated[
        str, typer.Option("--taxonomy", metavar="NAME", help="Name or file of the taxonomy of a file of --labels.")
    ] = "broden",
    min_photos: Annotated[
        int, typer.Option("--min-photos", metavar="N", min=1, help="Counted: photos of an object or a material.")
    ] = 50,
    min_pixels: Annotated[
        int, typer.Option("--min-pixels", metavar="N", min=0, help="Counted: pixels of an object or a material.")
    ] = 50_000,
    min_part_photos: Annotated[
        int, typer.Option("--min-part-photos", metavar="N", min=1, help="Counted: photos of a part of an object.")
    ] = 20,
    min_scene_photos: Annotated[
        int, typer.Option("--min-scene-photos", metavar="N", min=1, help="Counted: photos of a scene.")
    ] = 1,
    keep_synonyms: Annotated[
        bool, typer.Option("--keep-synonyms", help="Counted: do not merge plurals and synonyms.")
    ] = False,
    keep_positions: Annotated[
        bool,
        typer.Option("--keep-positions", help="Counted: do not drop left, right, upper, ... from the names of parts."),
    ] = False,
    refuse: Annotated[
        list[str] | None,
        typer.Option(
            "--refuse",
            metavar="KIND",
            help="Stop at such a photo instead of leaving it out: incomplete, damaged, unannotated, unlisted, "
            "unknown-label or all; repeatable.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            max=1024,
            help="Processes that convert photos.",
            show_default="all cores it may use",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the photos, and estimate the disk that they take.")
    ] = False,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make Broden+ of Unified Perceptual Parsing from any of its data sets.

    A run that was stopped goes on when it is repeated. These are the official sources, and docs/broden.md names mirrors
    and what to do when a host is gone:

    \b
    ADE20K          https://groups.csail.mit.edu/vision/datasets/ADE20K/
    Pascal-Context  https://roozbehm.info/pascal-context/trainval.tar.gz
    Pascal-Part     http://roozbehm.info/pascal-parts/trainval.tar.gz
    VOC2010         http://host.robots.ox.ac.uk/pascal/VOC/voc2010/
    OpenSurfaces    http://opensurfaces.cs.cornell.edu/
    DTD             https://www.robots.ox.ac.uk/~vgg/data/dtd/

    Exit status: 0 if all is well, 1 if photos are damaged or missing.
    """  # noqa: D301 - click keeps the lines of a paragraph that starts with \b
    from upernet.data.prepare.broden import Folders, Options, estimate_broden, prepare_broden
    from upernet.data.prepare.broden.assignment import PUBLISHED
    from upernet.data.prepare.broden.counting import COUNTED, Counting
    from upernet.data.prepare.broden.options import Refusal
    from upernet.data.prepare.broden.pascal import POSITIONS
    from upernet.ops.runtime.cores import usable_cores

    for kind in refuse or ():
        if kind not in (kinds := get_args(Refusal)):
            raise UpernetError(f"--refuse {kind}{did_you_mean(kind, kinds)}: give one of {', '.join(kinds)}.")
    folders = Folders(ade20k, pascal_context, pascal_part, voc2010, opensurfaces, dtd)
    collapse = () if keep_positions else POSITIONS
    counting = Counting(min_photos, min_pixels, min_part_photos, min_scene_photos, not keep_synonyms, collapse)
    if labels != COUNTED and counting != Counting():
        raise UpernetError(f"--min-... and --keep-... choose from counted labels; give --labels {COUNTED}, too.")
    if labels in (PUBLISHED, COUNTED) and taxonomy != "broden":
        raise UpernetError("--taxonomy goes with a file of --labels; give that file, or leave --taxonomy out.")
    kinds_refused = cast("frozenset[Refusal]", frozenset(refuse or ()))
    options = Options(short_side, lists, kinds_refused, workers or usable_cores(), labels, taxonomy, counting)
    if dry_run:
        with _bar("counting labels", quiet) as progress:
            estimate = estimate_broden(out, folders, options, progress)
        if json is not None:
            write_json(estimate.to_dict(), json)
        if str(json) != "-":
            _show_estimate(out, estimate)
        return
    with _bar("preparing broden", quiet) as progress:
        report = prepare_broden(out, folders, options, progress)
    if json is not None:
        write_json(report.to_dict(), json)
    if str(json) != "-":
        _show_report(report)
    raise typer.Exit(0 if report.complete else 1)


def _show_estimate(out: Path, estimate: Estimate) -> None:
    for dataset, splits in estimate.photos.items():
        print(f"{dataset}: {_splits(splits)}")
    _show_flaws(estimate.flaws, f"; found in the lists and in {estimate.sampled} sampled photos")
    print(f"{out} would take about {_bytes(estimate.size)}; {_bytes(estimate.free)} are free there")


def _show_report(report: Report) -> None:
    for dataset, splits in report.photos.items():
        print(f"{dataset}: {_splits(splits)}")
    for level, classes in report.classes.items():
        if any(classes.values()):
            print(f"{level}: {sum(map(bool, classes.values()))} of {len(classes)} classes occur")
    _show_flaws(report.flaws, f"; all of them are in {report.folder / 'report.json'}")
    print(f"Wrote {report.folder} ({_bytes(report.size)}, {report.new} photos new); its sources are in recipe.yaml")


def _show_flaws(flaws: list[Flaw], note: str) -> None:
    if not flaws:
        return
    kinds = sorted({flaw.kind for flaw in flaws})
    counts = ", ".join(f"{sum(flaw.kind == kind for flaw in flaws)} {kind}" for kind in kinds)
    print(f"flaws: {counts}{note}")
    shown = [next(flaw for flaw in flaws if flaw.kind == kind) for kind in kinds]
    for flaw in shown[:SHOWN_FLAWS]:
        print(f"  {flaw.kind}: {printable(flaw.text)}")


def _splits(counts: dict[str, int]) -> str:
    return f"{counts.get('train', 0):,} photos to train on, {counts.get('val', 0):,} to validate on"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    return f"{size:.3g} TB"


@contextmanager
def _bar(text: str, quiet: bool = False) -> Generator[Callable[[int, int], None], None, None]:
    """Show a progress bar on the terminal; yield the function that moves it."""
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, refresh=False)
