"""The command `upernet init`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upernet.cli.options import ForceOption

if TYPE_CHECKING:
    from upernet.data.check import Report
    from upernet.recipe import Recipe

SHOWN_PROBLEMS = 5


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with photos and their annotations.")],
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="List of the classes: lines such as `sky`, `0 sky` or `128 64 128 road`, CSV or JSON.",
            show_default="a list in FOLDER",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="Level that the classes belong to.",
            show_default="object for masks, scene for folders of photos",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="Recipe to write.", show_default="FOLDER.yaml")
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow symbolic links that lead out of FOLDER.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask no questions; use the defaults.")] = False,
    force: ForceOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> None:
    """Write a recipe for your own photos and masks.

    Looks at a folder of photos and masks (or annotations of COCO, Labelme or CVAT, or a folder of photos per class),
    finds classes, sizes and splits, proposes settings, checks the data, and writes a recipe to train with.
    """
    import sys
    import tempfile

    from rich.console import Console
    from rich.progress import Progress

    from upernet.data.check import check
    from upernet.errors import UpernetError
    from upernet.recipe import load_recipe
    from upernet.scaffold import propose, recipe_files, write_recipe
    from upernet.scaffold.classes import plain_name
    from upernet.scaffold.summary import next_commands, summary
    from upernet.scaffold.writing import refuse_existing
    from upernet.taxonomy.levels import LEVELS

    if level is not None and level not in LEVELS:
        raise UpernetError(f"--level {level}: give one of {', '.join(LEVELS)}.")
    target = out or Path(f"{plain_name(folder.resolve().name)}.yaml")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        def ask(question: str, default: str, choices: Sequence[str]) -> str:
            bar.stop()
            shown = f" ({', '.join(choices)})" if choices else ""
            while True:
                answer = str(typer.prompt(f"{question}{shown}", default=default)).strip()
                if answer and (not choices or answer in choices):
                    break
                typer.echo(f"Answer with one of {', '.join(choices)}.")
            bar.start()
            return answer

        asks = not yes and sys.stdin.isatty() and sys.stdout.isatty()
        proposal = propose(folder, classes, level, follow_links, ask if asks else None, show)
        refuse_existing(recipe_files(proposal, target), force)
        with tempfile.TemporaryDirectory() as temporary:
            draft = Path(temporary, target.name)
            write_recipe(proposal, draft)
            recipe = load_recipe(draft).model_copy(update={"data": str(folder.resolve())})
            report = check(recipe, folder, lambda done, total: show("checking labels and photos", done, total))
            seconds = None if quiet else _seconds(recipe)
    if not quiet:
        print(summary(proposal, target, min(100, Console().width), seconds), end="\n\n", flush=True)
    _refuse_problems(report)
    files = write_recipe(proposal, target, force)
    if not quiet:
        print("Wrote:", *reversed(files), sep="\n  ", end="\n\n")
        print(next_commands(proposal, target))


def _refuse_problems(report: Report) -> None:
    from upernet.errors import UpernetError

    if report.problems:
        shown = "\n".join(f"  {problem.text}" for problem in report.problems[:SHOWN_PROBLEMS])
        more = (
            f"\n  ... and {len(report.problems) - SHOWN_PROBLEMS} more" if len(report.problems) > SHOWN_PROBLEMS else ""
        )
        raise UpernetError(f"the data has problems; fix these files or move them out of the folder:\n{shown}{more}")


def _seconds(recipe: Recipe) -> float | None:
    """Return the seconds that the training takes."""
    from upernet.scaffold.timing import seconds_per_iteration

    assert recipe.training is not None
    return seconds_per_iteration(recipe) * sum(stage.iterations for stage in recipe.training.stages)
