"""`upernet data`: prepare and look at training data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from rich import markup
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from upernet.cli import prepare
from upernet.cli.options import (
    STDOUT,
    DataOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SettingsOption,
    write_json,
)
from upernet.errors import printable
from upernet.overrides import override
from upernet.recipe import data_folder, load_recipe

if TYPE_CHECKING:
    from upernet.data.check import Report, SplitReport

app = typer.Typer(help="Prepare and look at training data.", no_args_is_help=True)
SHOWN_PROBLEMS = 30


app.add_typer(prepare.app, name="prepare")


@app.callback()
def _data() -> None:
    """Prepare and look at training data."""


@app.command("check")
def check_command(
    recipe: RecipeArgument,
    data: DataOption = None,
    settings: SettingsOption = None,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Scan the labels and photos of a recipe and report what to fix.

    Exit status: 0 if all is well, 1 if there are problems.
    """
    from upernet.data.check import Problem, check
    from upernet.training.checking import training_problems

    chosen = override(load_recipe(recipe), settings or [])
    folder = data_folder(chosen, data)
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("reading masks, then photos", total=None)
        report = check(chosen, folder, lambda done, total: bar.update(task, completed=done, total=total, refresh=False))
    known = tuple(problem.text for problem in report.problems)
    for text in training_problems(chosen, folder):
        if not known or not text.startswith(known):
            report.problems.append(Problem("recipe", "", text))
    if json is not None:
        write_json(report.to_dict(), json)
    if json != STDOUT:
        _show(report, Console())
    raise typer.Exit(0 if report.ok else 1)


def _show(report: Report, console: Console) -> None:
    from upernet.inference.wording import wrapped

    table = Table(
        "source", "split", "level", "photos", "annotated", "width", "height", title=f"Data of {report.recipe}"
    )
    for column in table.columns[3:]:
        column.justify = "right"
    for split in report.splits:
        size = (_range(split.widths), _range(split.heights))
        table.add_row(_escape(split.source), split.split, split.level, str(split.photos), str(split.annotated), *size)
    console.print(table)
    for split in report.splits:
        console.print(f"\n[bold]{_escape(split.source)}, {split.split}, {split.level}:[/bold]", highlight=False)
        for line in _shares(split):
            console.print(wrapped(printable(line), console.width, "  "), markup=False, highlight=False)
    console.print()
    for text in report.missing:
        console.print(f"missing: {printable(text)}", markup=False, highlight=False)
    for problem in report.problems[:SHOWN_PROBLEMS]:
        more = f" ({problem.count} files)" if problem.count > 1 else ""
        place = f"{problem.source}/{problem.split}" if problem.split else problem.source
        console.print(f"[red]problem[/red] {_escape(place)}: {_escape(problem.text + more)}")
    if len(report.problems) > SHOWN_PROBLEMS:
        console.print(f"... and {len(report.problems) - SHOWN_PROBLEMS} more (all of them: --json FILE)")
    count = len(report.problems)
    console.print("no problems" if report.ok else f"{count} problem{'s' if count > 1 else ''}")


def _escape(text: str) -> str:
    """Return text that neither rich nor the terminal takes for a command."""
    return markup.escape(printable(text))


def _range(values: tuple[int, int, int] | None) -> str:
    if values is None:
        return "-"
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _shares(split: SplitReport, shown: int = 16) -> Iterator[str]:
    """Yield sentences on the classes: their shares of what is labeled, those that never occur, and what is unknown."""
    total = sum(split.labels.values())
    ranked = sorted(split.labels.items(), key=lambda item: -item[1])
    seen = [f"{name} {_percent(count / total)}" for name, count in ranked if count]
    if seen:
        more = f" and {len(seen) - shown} more" if len(seen) > shown else ""
        yield f"Of the labeled {split.unit}: {', '.join(seen[:shown])}{more}."
    never = [name for name, count in ranked if not count]
    if never:
        yield f"Not in any label: {', '.join(never)}."
    everything = total + split.unknown + split.partial
    if split.unknown:
        yield f"Unknown: {_percent(split.unknown / everything)} of all {split.unit}."
    if split.partial:
        yield f"One of several classes: {_percent(split.partial / everything)} of all {split.unit}."


def _percent(share: float) -> str:
    return "under 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
