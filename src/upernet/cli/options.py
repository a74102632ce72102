"""Options and arguments that several commands share: the same name means the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from upernet.recipe import Split

STDOUT = Path("-")
"""Value of `--json` without a file."""


def complete_model(incomplete: str) -> list[str]:
    """Return the names of models that begin with `incomplete`, for the completion of shells."""
    from upernet.recipe import list_recipes

    return [name for name in list_recipes() if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a bundled recipe, or path of a .yaml file.",
        autocompletion=complete_model,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Folder with the data sets of the recipe.", show_default="`data` of the recipe"
    ),
]
SplitOption = Annotated[
    Split | None, typer.Option(help="Split to score.", show_default="test if there is one, else val")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the recipe: training.stages.0.learning_rate=0.001. Repeatable."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Device to compute on: cpu, cuda, cuda:1, mps, ...",
        show_default="cuda if available, else cpu",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, max=1024, help="CPU threads.", show_default="all cores it may use"),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="[FILE]", help="Write the result to FILE as JSON; without FILE, print only JSON."),
]


def with_json_files(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `-` after each `--json` that has no file.

    `--json` takes the argument after it as its file, unless that is an option, a folder, or an existing file of another
    kind, such as a photo, which must not be overwritten.
    """
    expanded: list[str] = []
    for position, argument in enumerate(arguments):
        expanded.append(argument)
        if argument == "--json" and not _is_json_file(arguments[position + 1 : position + 2]):
            expanded.append(str(STDOUT))
    return expanded


def _is_json_file(following: Sequence[str]) -> bool:
    for argument in following:
        if argument == str(STDOUT):
            return True
        path = Path(argument)
        return not argument.startswith("-") and (path.suffix == ".json" or not path.exists())
    return False


def write_json(value: Any, file: Path) -> None:
    """Write `value` to `file` as JSON, or print it if `file` is STDOUT."""
    from upernet.files import write_text

    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files may be no UTF-8
    if file == STDOUT:
        print(text, end="", flush=True)
    else:
        write_text(file, text)
