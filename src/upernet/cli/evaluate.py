"""The command `upernet evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upernet.cli.options import (
    STDOUT,
    DataOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    SplitOption,
    ThreadsOption,
    complete_model,
    write_json,
)
from upernet.recipe import MetricRules, Split

if TYPE_CHECKING:
    from rich.console import Console

    from upernet.evaluation import EvaluationResult


def evaluate(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            autocompletion=complete_model,
            help="Name of a bundled recipe, path of a .yaml file, or folder of a training run.",
        ),
    ],
    data: DataOption = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Weights: a file, a folder, hf://OWNER/NAME, or the name of a model.",
            show_default="those of the run or, for a recipe, the bundled or published ones",
        ),
    ] = None,
    split: SplitOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for a page with confusion matrices, calibration, scores per class and photo, and the worst "
            "photos.",
            show_default="RUN/evaluation/SPLIT for a run, nothing for a recipe",
        ),
    ] = None,
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            help="Draw the worst photos, in the folder of --out or, for a recipe without it, evaluation/RECIPE/SPLIT.",
            show_default="with a folder",
        ),
    ] = None,
    metrics: Annotated[
        MetricRules,
        typer.Option(
            help="published: as the released code of Unified Perceptual Parsing counts, where a class in neither truth "
            "nor prediction has an IoU of 0.",
        ),
    ] = "standard",
    scales: Annotated[
        str,
        typer.Option(
            metavar="SCALES",
            help="Test-time augmentation: factors of the test size to average over, such as 0.5,0.75,1,1.25,1.5,1.75.",
        ),
    ] = "1",
    flip: Annotated[
        bool, typer.Option("--flip", help="Test-time augmentation: average with the mirrored photo.")
    ] = False,
    window: Annotated[
        int | None, typer.Option(metavar="N", help="Side of sliding windows in pixels.", show_default="whole photo")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(metavar="N", help="Distance between windows in pixels.", show_default="2/3 of the window"),
    ] = None,
    json: JsonOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score a model per level, and show its mistakes.

    The photos are those of a recipe or of a training run. Under torchrun, several
    processes divide them.
    """
    from rich.console import Console

    from upernet.devices import usable_device
    from upernet.distributed import join_world, leave_world
    from upernet.errors import UpernetError
    from upernet.evaluation import TestTimeAugmentation, default_split
    from upernet.evaluation import evaluate as score
    from upernet.evaluation.benchmark import (
        SCORES,
        TABLE,
        benchmark_rows,
        benchmark_table,
        describe_scores,
        is_benchmark,
        write_benchmark,
    )
    from upernet.evaluation.finding import evaluation_folder
    from upernet.evaluation.folder import write_evaluation
    from upernet.evaluation.loop import open_sources
    from upernet.evaluation.subject import Subject, is_run, open_model, open_recipe
    from upernet.inference.photos import make_output_folder
    from upernet.ops import set_threads
    from upernet.recipe import data_folder

    set_threads(threads)
    chosen = open_recipe(recipe)
    photos = data_folder(chosen, data)
    if device is not None:
        usable_device(device)
    if json is not None and json != STDOUT and json.is_dir():
        raise UpernetError(f"{json}: is a folder; give a file name for --json.")
    tta = TestTimeAugmentation(_numbers(scales), flip, window, stride)
    model = open_model(recipe, checkpoint)
    wanted: Split = split or default_split(model.taxonomy, chosen, photos)
    if out is None and is_run(recipe) and checkpoint is None:
        out = evaluation_folder(recipe, wanted)
        if metrics == "published":
            out = out.with_name(f"{wanted}-published")  # `upernet compare` reads the other one
    elif out is None and pictures:
        out = Path("evaluation", chosen.name, wanted)
    world = join_world(device)
    # Checked before the photos are scored, so that a folder that cannot be written is reported at once.
    if world.is_main and json is not None and json != STDOUT:
        make_output_folder(json.parent)
    if world.is_main and out is not None:
        open_sources(model, chosen, photos, wanted)
        make_output_folder(out)
    with photo_progress(chosen.sources, hidden=quiet or not world.is_main) as show:
        result = score(model, chosen, photos, wanted, world.device, show, tta, rules=metrics)
    leave_world()
    if not world.is_main:
        return
    page = None
    if out is not None:
        subject = Subject(model, chosen, photos, world.device) if pictures is not False else None
        page = write_evaluation(out, result, f"Evaluation of {checkpoint or chosen.name}", subject)
    if json is not None:
        write_json(result.to_dict(), json)
    console = Console(quiet=json == STDOUT)
    _print(result, photos, console)
    if is_benchmark(chosen):
        table = benchmark_table(benchmark_rows({chosen.name: result}, chosen))
        console.print(table, markup=False, soft_wrap=True)
        console.print(describe_scores(result, chosen), markup=False)
        if out is not None:
            write_benchmark(out, result, chosen)
            console.print(f"Wrote {out / TABLE} and {SCORES}", markup=False, soft_wrap=True)
    if page is not None:
        console.print(f"Wrote {page}", markup=False, soft_wrap=True)


@contextmanager
def photo_progress(sources: Iterable[str], hidden: bool) -> Generator[Callable[[str, int, int], None], None, None]:
    """Show a bar per source on stderr while the context lasts, and yield what `upernet.evaluate` calls."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None, visible=False) for name in sources}

        def show(source: str, done: int, total: int) -> None:
            bar.update(tasks[source], completed=done, total=total, visible=True)

        yield show


def _print(result: EvaluationResult, folder: Path, console: Console) -> None:
    from upernet.evaluation.report import tables

    counts = ", ".join(f"{count:,} of {source}" for source, count in result.photos.items())
    console.print(f"Scored the photos of split {result.split}: {counts}.", markup=False)
    for table in tables(result):
        console.print(table)
    if result.skipped:
        names = ", ".join(result.skipped)
        console.print(f"Skipped sources without {result.split} photos in {folder}: {names}.", markup=False)


def _numbers(text: str) -> tuple[float, ...]:
    """Parse numbers separated by commas: `0.5,1` -> (0.5, 1.0)."""
    from upernet.errors import UpernetError

    try:
        return tuple(float(number) for number in text.split(",")) if text.strip() else ()
    except ValueError:
        raise UpernetError(f"--scales {text}: give numbers separated by commas, such as 0.5,1,1.5.") from None
