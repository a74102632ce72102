"""The command `upernet compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upernet.cli.evaluate import photo_progress
from upernet.cli.options import (
    STDOUT,
    DataOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    write_json,
)
from upernet.recipe import Split

if TYPE_CHECKING:
    from upernet.evaluation import EvaluationResult

REFERENCE = "Folder of a training run, or of an evaluation that `upernet evaluate --out` wrote."


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=REFERENCE)],
    second: Annotated[str, typer.Argument(metavar="B", help=REFERENCE)],
    split: Annotated[
        Split | None,
        typer.Option(help="Split on which runs are compared.", show_default="test if there is one, else val"),
    ] = None,
    resamples: Annotated[
        int, typer.Option(metavar="N", min=100, max=100_000, help="Bootstrap samples of the photos.")
    ] = 2000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the bootstrap.")] = 0,
    taxonomy: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="TAXONOMY",
            help="Compare models with different label sets in this taxonomy, a name or a .yaml file.",
            show_default="both models have the same classes",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --as: a table of counterparts; see `upernet taxonomy map`."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for a page, tables per class and photo, and JSON.")
    ] = None,
    json: JsonOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare two models on the same photos.

    Shows the differences per class, and which of them are significant.
    A run that has not been evaluated on the split is evaluated first.
    """
    from dataclasses import replace

    from rich.console import Console

    from upernet.errors import UpernetError, printable
    from upernet.evaluation.compare import compare as differences
    from upernet.evaluation.compare_report import comparison_tables, notes, write_comparison
    from upernet.evaluation.translating import in_taxonomy
    from upernet.inference.photos import make_output_folder
    from upernet.ops import set_threads
    from upernet.taxonomy import load_taxonomy
    from upernet.taxonomy.tables import read_table

    if table is not None and taxonomy is None:
        raise UpernetError("--table needs --as TAXONOMY; add it, or leave the table out.")
    target = None if taxonomy is None else load_taxonomy(taxonomy)
    wanted = None if table is None else read_table(table)
    set_threads(threads)
    if out is not None:
        make_output_folder(out)
    results = (
        _evaluation(first, split, data, device, quiet),
        _evaluation(second, split, data, device, quiet),
    )
    remarks: tuple[str, ...] = ()
    if target is not None:
        *results, remarks = in_taxonomy(*results, target, wanted)
    comparison = replace(differences(*results, resamples=resamples, seed=seed), remarks=remarks)
    page = None if out is None else write_comparison(out, comparison, first, second)
    if json is not None:
        write_json({"first": first, "second": second, **comparison.to_dict()}, json)
    console = Console(quiet=json == STDOUT)
    console.print(f"A: {printable(first)}\nB: {printable(second)}\nPhotos of split {comparison.split}.\n", markup=False)
    for rows in comparison_tables(comparison):
        console.print(rows)
    for note in notes(comparison):
        console.print(note, markup=False)
    if page is not None:
        console.print(f"Wrote {page}", markup=False, soft_wrap=True)


def _evaluation(
    reference: str, split: Split | None, data: Path | None, device: str | None, quiet: bool
) -> EvaluationResult:
    """Read an evaluation, or evaluate the run that has none yet."""
    from upernet.devices import usable_device
    from upernet.evaluation import default_split, evaluate
    from upernet.evaluation.finding import current_evaluation, evaluation_folder, find_evaluation
    from upernet.evaluation.folder import read_evaluation, write_evaluation
    from upernet.evaluation.subject import is_run, open_model, open_recipe
    from upernet.recipe import data_folder

    if not is_run(reference):
        return read_evaluation(find_evaluation(reference))
    recipe = open_recipe(reference)
    photos = data_folder(recipe, data)
    wanted: Split = split or default_split(recipe.load_taxonomy(), recipe, photos)
    found = current_evaluation(reference, wanted)
    if found is not None:
        return read_evaluation(found)
    model, place = open_model(reference), usable_device(device)
    with photo_progress(recipe.sources, hidden=quiet) as show:
        result = evaluate(model, recipe, photos, wanted, place, show)
    write_evaluation(evaluation_folder(reference, wanted), result, f"Evaluation of {recipe.name}")
    return result
