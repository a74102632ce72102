"""The command `upernet`: its sub-commands, and how errors are reported."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from upernet.cli import data, taxonomy
from upernet.cli.ablate import ablate
from upernet.cli.bench import bench
from upernet.cli.compare import compare
from upernet.cli.convert import convert
from upernet.cli.discover import discover
from upernet.cli.doctor import doctor
from upernet.cli.download import download
from upernet.cli.evaluate import evaluate
from upernet.cli.export import export
from upernet.cli.init import init
from upernet.cli.models import models
from upernet.cli.options import with_json_files
from upernet.cli.parse import parse
from upernet.cli.serve import serve
from upernet.cli.train import train
from upernet.errors import UpernetError, did_you_mean, printable_lines
from upernet.version import __version__

OTHER_NAMES = {
    "predict": "parse",
    "infer": "parse",
    "inference": "parse",
    "segment": "parse",
    "test": "evaluate",
    "val": "evaluate",
    "validate": "evaluate",
    "eval": "evaluate",
    "fit": "train",
    "ablation": "ablate",
    "finetune": "train",
    "benchmark": "bench",
    "list": "models",
    "new": "init",
    "create": "init",
    "scaffold": "init",
    "check": "data check",
    "diagnose": "doctor",
    "info": "doctor",
    "env": "doctor",
    "prepare": "data prepare",
}
"""What other programs call a command -> its name here."""
FIRST_STEPS = f"""\
upernet {__version__}: one photo in; its scene, objects, parts, materials and textures out.

  upernet parse photo.jpg     parse a photo with the bundled model
  upernet init photos/        begin to train on your own photos and masks
  upernet models              list the models, published ones included
  upernet doctor              check this installation
  upernet --help              list all commands; upernet COMMAND --help explains one

`upernet --install-completion` completes commands, options and models with the Tab key."""
"""What `upernet` alone prints."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, by the convention of shells."""

OBJECTS_BETWEEN_COLLECTIONS = 1_000_000
"""New objects after which Python looks for garbage: more than the imports of torch and Numba make. With its default, it
looks hundreds of times meanwhile."""

app = typer.Typer(
    name="upernet",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"upernet {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _upernet(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """One photo in; its scene, objects, parts, materials and textures out."""
    if context.invoked_subcommand is None:
        print(FIRST_STEPS)


app.command()(init)
app.command()(parse)
app.command()(models)
app.command()(download)
app.command()(train)
app.command()(ablate)
app.command()(evaluate)
app.command()(compare)
app.command()(convert)
app.command()(export)
app.command()(bench)
app.command()(discover)
app.command()(serve)
app.command()(doctor)
app.add_typer(data.app, name="data")
app.add_typer(taxonomy.app, name="taxonomy")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with status 0 (done), 1 (partly done), 2 (not done) or 130 (interrupted).

    Args:
        arguments: The arguments. Default: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        _check_command(given)
        app(with_json_files(given), prog_name="upernet")
        sys.stdout.flush()
    except UpernetError as error:
        print(f"upernet: {printable_lines(error)}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout went away (`upernet models | head -1`); Python must not meet the pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("upernet: the output cannot be written: the disk is full; make room on it.", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def run() -> NoReturn:
    """Run `main`, and end the process without freeing every object of torch one by one."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    # As Python does at its end: wait for threads, and call what was registered.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _check_command(arguments: Sequence[str]) -> None:
    """Raise UpernetError if the first argument is no command, with the most similar one."""
    for name in arguments[:1]:
        commands = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
        commands += [group.name or "" for group in app.registered_groups]
        if name not in commands and not name.startswith("-"):
            meant = (
                f" (did you mean `upernet {OTHER_NAMES[name]}`?)"
                if name in OTHER_NAMES
                else did_you_mean(name, commands)
            )
            raise UpernetError(f"there is no command {name!r}{meant}; the commands are {', '.join(commands)}.")
